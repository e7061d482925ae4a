"""The dashboards of Grafana: `{{ lookup('dashboards', directory, ...) }}`. The platform's are defined below.

The dashboards are code: a change is readable, and all look alike. molecule/default/test_dashboards.py runs every
query against the Prometheus of a platform.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ansible.plugins.lookup import LookupBase
from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueGraphMode,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

DOCUMENTATION = """
name: dashboards
author: The Image Editor platform team
short_description: The dashboards of Grafana
description:
  - The dashboards of the platform, and those in directories. A file in a later directory replaces one of the same name.
options:
  _terms:
    description: Directories of dashboards, as Grafana exports them (C(*.json)). A directory that does not exist has none.
    type: list
    elements: path
"""

RETURN = """
_raw:
  description: The JSON of each dashboard by the name of its file.
  type: dict
"""
TAGS = ["image-editor"]
SOURCE = DataSourceRef(type_val="prometheus", uid="prometheus")  # as roles/grafana provisions it


@dataclass
class Panel:
    """A graph over time. ``queries`` maps the name in the legend to the query."""

    title: str
    queries: dict[str, str]
    unit: str = "short"
    about: str = ""  # the description behind the panel's (i)
    stacked: bool = False
    decimals: int | None = None
    most: float | None = None  # upper end of the axis

    def build(self) -> stat.Panel | timeseries.Panel:
        """Return the SDK's builder of the panel."""
        panel = self.graph().title(self.title).description(self.about).datasource(SOURCE).unit(self.unit)
        if self.decimals is not None:
            panel.decimals(self.decimals)
        if self.most is not None:
            panel.max(self.most)
        for reference, (legend, expression) in zip("ABCDEF", self.queries.items(), strict=False):
            panel.with_target(prometheus.Dataquery().ref_id(reference).expr(expression).legend_format(legend))
        return panel

    def graph(self) -> timeseries.Panel:
        """Return an empty panel of this kind."""
        legend = (
            common.VizLegendOptions().show_legend(True).display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
        )
        panel = timeseries.Panel().span(12).height(8).min(0).line_width(1).fill_opacity(60 if self.stacked else 10)
        if self.stacked:
            panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
        return panel.legend(legend).tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))


@dataclass
class Number(Panel):
    """The newest value in large type, over a line without axes."""

    def graph(self) -> stat.Panel:
        newest = common.ReduceDataOptions().calcs(["lastNotNull"])
        return stat.Panel().span(6).height(5).reduce_options(newest).graph_mode(BigValueGraphMode.AREA)


@dataclass
class Board:
    """A dashboard: a row of numbers, then graphs."""

    name: str
    title: str
    about: str
    panels: list[Panel]
    instances_of: str = ""  # a metric; the dashboard has a choice of the hosts that export it

    def json(self) -> str:
        """Return the JSON that Grafana reads."""
        links = dashboard.DashboardLink("Dashboards").type(DashboardLinkType.DASHBOARDS).tags(TAGS).keep_time(True)
        board = dashboard.Dashboard(self.title).uid(f"image-editor-{self.name}").description(self.about).tags(TAGS)
        board.readonly().timezone("browser").time("now-1h", "now").refresh("30s").link(links)
        board.tooltip(DashboardCursorSync.CROSSHAIR)
        if self.instances_of:
            everything = VariableOption(text="All", value="$__all", selected=True)
            board.with_variable(
                dashboard.QueryVariable("instance")
                .label("Host")
                .datasource(SOURCE)
                .query(f"label_values({self.instances_of}, instance)")
                .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
                .sort(VariableSort.ALPHABETICAL_ASC)
                .multi(True)
                .include_all(True)
                .all_value(".*")
                .current(everything)
            )
        for number, panel in enumerate(self.panels, start=1):
            board.with_panel(panel.build().id(number))
        return json.dumps(board.build(), cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def rate(metric: str, *selectors: str) -> str:
    """Return the query of a counter's rate per second."""
    return f"rate({select(metric, *selectors)}[$__rate_interval])"


def select(metric: str, *selectors: str) -> str:
    """Return the query of a metric's series that match all selectors."""
    return f"{metric}{{{', '.join(selectors)}}}" if selectors else metric


def quantiles(histogram: str, *selectors: str, by: str = "") -> dict[str, str]:
    """Return the queries of p50, p95 and p99 of a histogram, for each value of the label ``by``."""
    legend, labels = (f" {{{{{by}}}}}", f"le, {by}") if by else ("", "le")
    buckets = rate(f"{histogram}_bucket", *selectors)
    return {f"p{q}{legend}": f"histogram_quantile({q / 100:g}, sum by ({labels}) ({buckets}))" for q in (50, 95, 99)}


HERE = 'instance=~"$instance"'
EDITS = 'task="edit"'
DATABASE = 'datname="image_editor"'
DISKS = 'fstype!~"tmpfs|ramfs|squashfs"'
MEAN, SUCCESS = {"mean": "image_editor:task_seconds:mean5m"}, {"succeeded": "image_editor:success_ratio:5m"}
MEMORY, CONNECTIONS = {"used": "image_editor:redis_memory_bytes"}, {"in use": "image_editor:database_connections"}

OVERVIEW = Board(
    "overview",
    "Image Editor: Overview",
    "The health of the platform. The first four numbers are the baselines that playbooks/baseline.yml measures.",
    [
        Number("Mean task time", MEAN, "s", "Mean processing time of an edit over 5 minutes.", decimals=3),
        Number(
            "Success rate",
            SUCCESS,
            "percentunit",
            "Successful edits as a share of all edits that ended in 5 minutes.",
            decimals=2,
        ),
        Number(
            "Redis memory",
            MEMORY,
            "bytes",
            "Memory used by the primary, without the replication backlog. At its limit Redis refuses writes and the queues stop.",
        ),
        Number("Database connections", CONNECTIONS, "short", "Open connections to the application's database."),
        Panel(
            "Requests",
            {"{{status}}": f"sum by (status) ({rate('django_http_responses_total_by_status_view_method_total')})"},
            "reqps",
            "Responses of the API by status.",
            stacked=True,
        ),
        Panel(
            "Request latency",
            quantiles("django_http_requests_latency_including_middlewares_seconds"),
            "s",
            "Latency of the API without the edge.",
        ),
        Panel(
            "Edits ended",
            {"{{outcome}}": f"sum by (outcome) ({rate('image_editor_tasks_total', EDITS)})"},
            "ops",
            "The outcomes overtaken and dropped are duplicates without effect.",
            stacked=True,
        ),
        Panel(
            "Processing time of an edit",
            MEAN | quantiles("image_editor_task_seconds", EDITS),
            "s",
            "Without the time in the queue, which is on the dashboard Task pipeline.",
        ),
        Panel("Edits waiting", {"{{queue}}": "max by (queue) (image_editor_queue_length)"}, stacked=True),
        Panel("Success rate", SUCCESS, "percentunit", most=1),
        Panel("Redis memory", MEMORY | {"limit": "max(redis_memory_max_bytes)"}, "bytes"),
        Panel("Database connections", CONNECTIONS | {"limit": "max(pg_settings_max_connections)"}),
        Panel(
            "Targets up",
            {"{{job}}": "avg by (job) (up)"},
            "percentunit",
            "Below 100%, a target of the job or its exporter is down.",
            most=1,
        ),
        Panel(
            "Alerts firing",
            {"{{severity}}": 'sum by (severity) (ALERTS{alertstate="firing",alertname!="Watchdog"}) or vector(0)'},
            about="The alerts are listed at /prometheus/classic/alerts.",
            stacked=True,
        ),
    ],
)

PIPELINE = Board(
    "pipeline",
    "Image Editor: Task pipeline",
    "Edits from acceptance to callback: queues, processing and outcomes.",
    [
        Number(
            "Oldest message",
            {"age": "max(image_editor_queue_oldest_age_seconds)"},
            "s",
            "Age of the oldest message in any queue. 0 means that all queues are empty.",
        ),
        Number("Messages", {"messages": "sum(max by (queue) (image_editor_queue_length))"}, about="Messages in all queues."),
        Number(
            "Unacknowledged messages",
            {"messages": "max(image_editor_unacknowledged)"},
            about="Messages that workers process, or that Redis will redeliver.",
        ),
        Number(
            "Dead callbacks",
            {"dead": 'max(image_editor_callbacks{state="dead"})'},
            about="Callbacks abandoned after all retries. An operator can requeue them.",
        ),
        Panel(
            "Tasks by outcome",
            {"{{task}} {{outcome}}": f"sum by (task, outcome) ({rate('image_editor_tasks_total')})"},
            "ops",
            stacked=True,
        ),
        Panel("Processing time by queue", quantiles("image_editor_task_seconds", by="queue"), "s"),
        Panel(
            "Time in the queue",
            quantiles("image_editor_queue_wait_seconds", by="queue"),
            "s",
            "From acceptance until a worker claims the edit.",
        ),
        Panel("Messages by queue", {"{{queue}}": "max by (queue) (image_editor_queue_length)"}, stacked=True),
        Panel("Oldest message by queue", {"{{queue}}": "max by (queue) (image_editor_queue_oldest_age_seconds)"}, "s"),
        Panel(
            "Workers by queue",
            {"{{queue}}": "max by (queue) (image_editor_queue_workers)"},
            about="0 means that no worker consumes the queue.",
        ),
        Panel(
            "Age of worker heartbeats",
            {"{{instance}} {{queue}}": "time() - max by (instance, queue) (image_editor_worker_heartbeat_seconds)"},
            "s",
            "Time since the main loop last made progress. A stuck worker still answers a ping.",
        ),
        Panel(
            "Unfinished edits",
            {"{{status}}": 'max by (status) (image_editor_edits{status=~"accepted|queued|processing"})'},
            about="Rows in the database by status.",
            stacked=True,
        ),
        Panel("Callbacks", {"{{state}}": "max by (state) (image_editor_callbacks)"}),
        Panel(
            "Messages republished by the reconciler",
            {"messages": f"sum({rate('image_editor_reconciler_republished_total')})"},
            "ops",
            "A few after a failover are normal. A constant rate means that messages are lost.",
        ),
        Panel(
            "Collector sources",
            {"{{source}}": "min by (source) (image_editor_collector_up)"},
            about="0 means that a collector cannot read the source, and its metrics are missing.",
            most=1,
        ),
        Panel(
            "Lease of the scheduler",
            {"{{host}}": "max by (host) (image_editor_scheduler_lease_seconds)"},
            "s",
            "The host whose scheduler sends the periodic jobs. At 0, no scheduler sends them.",
        ),
    ],
)

# The same exporter also exports the Sentinels, in the job sentinel.
NODE = f'job="redis", {HERE}'
REDIS = Board(
    "redis",
    "Image Editor: Redis",
    "Broker (db 0), cache (db 1) and results (db 2): the nodes, the primary and the routes of clients.",
    [
        Number("Nodes up", {"nodes": f"sum({select('redis_up', NODE)})"}),
        Number(
            "Primary",
            {"{{instance}}": select("redis_instance_info", 'role="master"', NODE)},
            about="The node with the role primary. Two nodes for a moment during a failover.",
        ),
        Number(
            "Memory used of the limit",
            {"{{instance}}": f"{select('redis_memory_used_bytes', NODE)} / (redis_memory_max_bytes > 0)"},
            "percentunit",
            "At 100% Redis refuses writes, and new edits wait in the database.",
        ),
        Number("Replicas of each node", {"{{instance}}": select("redis_connected_slaves", NODE)}),
        Panel(
            "Memory",
            {
                "{{instance}} used": select("redis_memory_used_bytes", NODE),
                "{{instance}} resident": select("redis_memory_used_rss_bytes", NODE),
                "limit": f"max({select('redis_memory_max_bytes', NODE)})",
            },
            "bytes",
        ),
        Panel("Keys by database", {"{{instance}} {{db}}": select("redis_db_keys", 'db=~"db[012]"', NODE)}),
        Panel("Commands", {"{{instance}}": rate("redis_commands_processed_total", NODE)}, "ops"),
        Panel(
            "Time by command",
            {"{{cmd}}": f"topk(6, sum by (cmd) ({rate('redis_commands_duration_seconds_total', NODE)}))"},
            "s",
            "Busy seconds per second of the six most expensive commands. Redis has one thread.",
        ),
        Panel(
            "Clients",
            {
                "{{instance}} connected": select("redis_connected_clients", NODE),
                "{{instance}} blocked": select("redis_blocked_clients", NODE),
            },
            about="A blocked client is a worker that waits for a message. That is normal.",
        ),
        Panel(
            "Replication",
            {
                "{{instance}}": f"{select('redis_master_repl_offset', NODE)} - on () group_left () min(redis_master_repl_offset)",
            },
            "bytes",
            "Replication offset of each node, relative to the node that is furthest behind.",
        ),
        Panel(
            "Proxies by server",
            {"{{server}}": 'sum by (server) (haproxy_server_status{proxy="redis", state="UP"})'},
            about="Number of local proxies that forward to each node. All must forward to the same node.",
        ),
        Panel(
            "Refused",
            {
                "{{instance}} connections": rate("redis_rejected_connections_total", NODE),
                "{{instance}} evicted keys": rate("redis_evicted_keys_total", NODE),
                "{{instance}} errors": rate("redis_total_error_replies", NODE),
            },
            "ops",
        ),
    ],
    select("redis_instance_info", 'job="redis"'),
)

HITS, READS = (f"sum({rate(f'pg_stat_database_blks_{kind}', DATABASE)})" for kind in ("hit", "read"))
POSTGRESQL = Board(
    "postgresql",
    "Image Editor: PostgreSQL",
    "Connections, transactions, size, and the database as the application sees it.",
    [
        Number(
            "Connections used of the limit",
            {"used": "sum(pg_stat_activity_count) / max(pg_settings_max_connections)"},
            "percentunit",
        ),
        Number("Database size", {"size": f"max({select('pg_database_size_bytes', DATABASE)})"}, "bytes"),
        Number(
            "Cache hit ratio",
            {"hit": f"{HITS} / ({HITS} + {READS})"},
            "percentunit",
            "Share of blocks found in shared buffers.",
            decimals=2,
        ),
        Number(
            "Longest transaction",
            {"age": "max(pg_stat_activity_max_tx_duration)"},
            "s",
            "A transaction of several minutes keeps vacuum from removing dead rows.",
        ),
        Panel(
            "Connections by state",
            {
                "{{state}}": f"sum by (state) ({select('pg_stat_activity_count', DATABASE)})",
                "limit": "max(pg_settings_max_connections)",
            },
        ),
        Panel(
            "Transactions",
            {end: f"sum({rate(f'pg_stat_database_xact_{end}', DATABASE)})" for end in ("commit", "rollback")},
            "ops",
        ),
        Panel(
            "Rows written",
            {verb: f"sum({rate(f'pg_stat_database_tup_{verb}', DATABASE)})" for verb in ("inserted", "updated", "deleted")},
            "ops",
        ),
        Panel(
            "Locks and deadlocks",
            {
                "{{mode}}": f"sum by (mode) ({select('pg_locks_count', DATABASE)})",
                "deadlocks": f"sum({rate('pg_stat_database_deadlocks', DATABASE)})",
            },
        ),
        Panel("Write-ahead log", {"size": "max(pg_wal_size_bytes)"}, "bytes", "Grows without limit if archiving fails."),
        Panel("Statement latency seen by the application", quantiles("django_db_query_duration_seconds"), "s"),
        Panel("Statements of the application", {"{{instance}}": f"sum by (instance) ({rate('django_db_execute_total')})"}, "ops"),
        Panel(
            "New connections of the application",
            {"{{instance}}": f"sum by (instance) ({rate('django_db_new_connections_total')})"},
            "ops",
            "A high rate means that connections are not reused.",
        ),
    ],
)

IDLE = rate("node_cpu_seconds_total", 'mode="idle"', HERE)
FREE = f"{select('node_filesystem_avail_bytes', DISKS, HERE)} / {select('node_filesystem_size_bytes', DISKS, HERE)}"
AVAILABLE = select("node_memory_MemAvailable_bytes", HERE)
HOSTS = Board(
    "hosts",
    "Image Editor: Hosts",
    "Processor, memory, disk, network and systemd units of every host.",
    [
        Number("Highest processor usage", {"busy": f"max(1 - avg by (instance) ({IDLE}))"}, "percentunit"),
        Number("Least memory available", {"available": f"min({AVAILABLE} / node_memory_MemTotal_bytes)"}, "percentunit"),
        Number("Least disk space free", {"left": f"min({FREE})"}, "percentunit", "Free share of the fullest file system."),
        Number(
            "Failed units",
            {"units": f"sum({select('node_systemd_units', 'state="failed"', HERE)})"},
            about="Number of failed units. make status names them.",
        ),
        Panel("Processor usage", {"{{instance}}": f"1 - avg by (instance) ({IDLE})"}, "percentunit", most=1),
        Panel("Memory available", {"{{instance}}": AVAILABLE}, "bytes"),
        Panel(
            "Load by processor",
            {
                "{{instance}}": f"{select('node_load1', HERE)}"
                ' / on (instance) count by (instance) (node_cpu_seconds_total{mode="idle"})'
            },
            about="Above 1, processes wait for a processor.",
        ),
        Panel(
            "Disk space free",
            {"{{instance}}": f"min by (instance) ({FREE})"},
            "percentunit",
            "Free share of the fullest file system of each host.",
            most=1,
        ),
        Panel(
            "Disk busy",
            {"{{instance}}": f"max by (instance) ({rate('node_disk_io_time_seconds_total', HERE)})"},
            "percentunit",
            most=1,
        ),
        Panel(
            "Network",
            {
                f"{{{{instance}}}} {way}": f"sum by (instance) ({rate(f'node_network_{way}_bytes_total', 'device!="lo"', HERE)})"
                for way in ("receive", "transmit")
            },
            "Bps",
        ),
        Panel("nginx: connections", {"{{instance}}": "nginx_connections_active"}, about="Edge and media hosts."),
        Panel("nginx: requests", {"{{instance}}": rate("nginx_http_requests_total")}, "reqps"),
        Panel("Open files", {"{{instance}}": select("node_filefd_allocated", HERE)}),
        Panel("Uptime", {"{{instance}}": f"time() - {select('node_boot_time_seconds', HERE)}"}, "s"),
    ],
    "node_boot_time_seconds",
)

BOARDS = (OVERVIEW, PIPELINE, REDIS, POSTGRESQL, HOSTS)


def generate() -> dict[str, str]:
    """Return the JSON of the platform's dashboards by file name."""
    return {f"{board.name}.json": board.json() for board in BOARDS}


class LookupModule(LookupBase):
    """Ansible's interface to this module."""

    def run(self, terms: list[str], variables: dict | None = None, **kwargs: object) -> list[dict[str, str]]:
        added = [path for directory in terms for path in sorted(Path(directory).glob("*.json"))]
        return [generate() | {path.name: path.read_text() for path in added}]
