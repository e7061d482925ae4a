// Shows the health of each part. Asks the services with the reader's own sign-in, every 15 s while the page is visible.
"use strict";

const INTERVAL_MS = 15000;
const TIMEOUT_MS = 8000;

// Returns kind and text for an unexpected HTTP status.
const describe = (status) =>
  status === 404 ? ["off", "switched off"]
    : [502, 503, 504].includes(status) ? ["bad", "does not answer"]
      : status === 429 ? ["warn", "rate limited"]
        : ["bad", `answers HTTP ${status}`];

async function ask(path, options = {}) {
  // fetch() refuses a URL with a password in it. location.origin has none, even if the page was opened as https://name:password@…
  const answer = await fetch(new URL(path, location.origin), { signal: AbortSignal.timeout(TIMEOUT_MS), cache: "no-store", ...options });
  return [answer.status, answer];
}

async function query(expression) {
  const [status, answer] = await ask(`/prometheus/api/v1/query?query=${encodeURIComponent(expression)}`);
  return [status, status === 200 ? (await answer.json()).data.result : []];
}

const CHECKS = {
  async api() {
    const [status, answer] = await ask("/operators/readyz/");
    if (status !== 200 && status !== 503) return describe(status);
    const { checks, release } = await answer.json();
    const failing = Object.keys(checks).filter((name) => checks[name] !== "ok");
    return failing.length ? ["bad", `${failing.join(", ").replaceAll("_", " ")}: not ok`] : ["ok", `ready, release ${release}`];
  },
  async flower() {
    const [status] = await ask("/flower/");
    return status === 200 ? ["ok", "answers"] : describe(status);
  },
  async grafana() {
    const [status, answer] = await ask("/grafana/api/health");
    if (status !== 200) return describe(status);
    const health = await answer.json().catch(() => ({}));
    return health.database === "ok" ? ["ok", `ready, version ${health.version}`] : ["warn", "not ready"];
  },
  async prometheus() {
    const [status, up] = await query("up");
    showTargets(up);
    if (status !== 200) return describe(status);
    const down = up.filter((sample) => sample.value[1] !== "1").length;
    return down ? ["bad", `${down} of ${up.length} targets down`] : ["ok", `${up.length} targets, all up`];
  },
  async consoles() {
    const [status] = await ask("/prometheus/-/ready");
    return status === 200 ? ["ok", "ready"] : describe(status);
  },
  async alertmanager() {
    const selected = "active=true&silenced=false&inhibited=false&filter=alertname!%3DWatchdog"; // Watchdog always fires
    const [status, answer] = await ask(`/alertmanager/api/v2/alerts?${selected}`);
    const alerts = status === 200 ? await answer.json() : [];
    showAlerts(alerts);
    if (status !== 200) return describe(status);
    return alerts.length ? ["warn", `${alerts.length} ${alerts.length === 1 ? "alert" : "alerts"}`] : ["ok", "no alerts"];
  },
};

function item(text, kind, link = "") {
  const element = document.createElement("li");
  const content = document.createElement(/^https?:/.test(link) ? "a" : "span");
  content.textContent = text;
  if (content.tagName === "A") content.href = link;
  element.append(content);
  element.className = kind;
  return element;
}

function showTargets(up) {
  const jobs = new Map();
  for (const { metric, value } of up) {
    const [reached, all] = jobs.get(metric.job) ?? [0, 0];
    jobs.set(metric.job, [reached + (value[1] === "1"), all + 1]);
  }
  const items = [...jobs].sort().map(([job, [reached, all]]) => item(`${job} ${reached}/${all}`, reached === all ? "ok" : "bad"));
  const section = document.getElementById("targets");
  section.querySelector("ul").replaceChildren(...items);
  section.hidden = items.length === 0;
}

function showAlerts(alerts) {
  const items = alerts.map(({ labels, annotations }) =>
    item(annotations.summary ?? labels.alertname, labels.severity === "critical" ? "bad" : "warn", annotations.runbook_url));
  const section = document.getElementById("alerts");
  section.querySelector("ul").replaceChildren(...items);
  section.hidden = items.length === 0;
}

async function refresh() {
  const kinds = await Promise.all(Object.entries(CHECKS).map(async ([part, check]) => {
    const [kind, text] = await check().catch(() => ["bad", "does not answer"]);
    const output = document.querySelector(`[data-part=${part}] output`);
    output.textContent = text;
    output.className = kind;
    return kind;
  }));
  const count = (kind) => kinds.filter((each) => each === kind).length;
  const summary = document.getElementById("summary");
  const bad = count("bad");
  const text = bad ? `${bad} of ${kinds.length} parts need${bad === 1 ? "s" : ""} attention`
    : count("warn") ? "Some parts have warnings"
      : count("off") ? "All enabled parts answer" : "All parts answer";
  summary.textContent = `${text} · ${new Date().toLocaleTimeString()}`;
  summary.className = bad ? "bad" : count("warn") ? "warn" : "ok";
}

// The host has the documents only if `make docs` ran on the controller before a deployment.
async function showDocuments() {
  const [status] = await ask("/operators/docs/", { method: "HEAD" });
  document.getElementById("documents").hidden = status !== 200;
}

async function watch() {
  if (!document.hidden) await refresh();
  setTimeout(watch, INTERVAL_MS);
}
watch();
showDocuments().catch(() => {});
