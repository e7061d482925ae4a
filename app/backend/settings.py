"""All settings, read from the environment only. docs/app/settings.md lists every variable; secrets have no default."""

import sys
from pathlib import Path

import environ

from image_editor.pipeline import queues

BASE_DIR = Path(__file__).resolve().parent.parent
env = environ.Env()

# These commands run on the build host, which has no secrets and needs none.
BUILDING = sys.argv[1:2] == ["collectstatic"] or sys.argv[1:3] == ["schema", "leaves"]


def required(name: str) -> str:
    """The value of a variable that has no default. Raises ImproperlyConfigured, with its name, if it is not set."""
    if BUILDING:
        return ""
    value = env.str(f"IMAGE_EDITOR_{name}", default="")
    if not value:
        raise environ.ImproperlyConfigured(f"Set IMAGE_EDITOR_{name}: it has no default")
    return value


def _release() -> str:
    try:
        lines = (BASE_DIR / "REVISION").read_text().splitlines()
    except FileNotFoundError:
        lines = []
    return lines[0].strip() if lines else "unreleased"


RELEASE = _release()

# --- web -------------------------------------------------------------------------------------------------------------
SECRET_KEY = required("SECRET_KEY") or "building"
SECRET_KEY_FALLBACKS = [key for key in [env.str("IMAGE_EDITOR_SECRET_KEY_EARLIER", default="")] if key]
DEBUG = env.bool("IMAGE_EDITOR_DEBUG", default=False)
PUBLIC_URL = required("PUBLIC_URL").rstrip("/")
ALLOWED_HOSTS = env.list("IMAGE_EDITOR_ALLOWED_HOSTS", default=[])
CSRF_TRUSTED_ORIGINS = [PUBLIC_URL] if PUBLIC_URL else []
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = PUBLIC_URL.startswith("https://")
SESSION_COOKIE_HTTPONLY = CSRF_COOKIE_HTTPONLY = True
SESSION_ENGINE = "image_editor.web.sessions"
SESSION_COOKIE_AGE = 12 * 3600  # seconds: a day's work
LOGIN_URL = "sign-in"
LOGIN_REDIRECT_URL = LOGOUT_REDIRECT_URL = "home"
SECURE_CONTENT_TYPE_NOSNIFF = True
X_FRAME_OPTIONS = "DENY"
ROOT_URLCONF = "backend.urls"
WSGI_APPLICATION = "backend.wsgi.application"
APPEND_SLASH = False

# Workers, scheduler and Flower serve no requests of ours. They leave out what only requests need: 13 MiB in each.
# `celery`, or `python -m celery`, whose program is celery/__main__.py
SERVES = "celery" not in (Path(sys.argv[0]).name, Path(sys.argv[0]).parent.name)

INSTALLED_APPS = [
    "image_editor.apps.AdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    *(["ninja"] if SERVES else []),
    "image_editor",
]
MIDDLEWARE = [
    "image_editor.web.middleware.RequestContext",
    "image_editor.web.middleware.Head",
    "image_editor.web.health.Probes",
    "django.middleware.locale.LocaleMiddleware",  # before everything that answers with an error
    "image_editor.web.deadline.Deadline",
    "image_editor.web.middleware.Problems",
    "image_editor.web.middleware.ContentSecurityPolicy",
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "image_editor.web.middleware.ForPages",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "image_editor.web.middleware.ForAll",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]
AUTHENTICATION_BACKENDS = [
    "image_editor.auth.TokenBackend",
    "django.contrib.auth.backends.ModelBackend",
]
LANGUAGE_CODE = "en"
LANGUAGES = [("en", "English"), ("zh-hans", "中文")]  # by the cookie of the page, or else by Accept-Language
LANGUAGE_COOKIE_AGE = 365 * 24 * 3600  # seconds
LANGUAGE_COOKIE_SECURE, LANGUAGE_COOKIE_HTTPONLY, LANGUAGE_COOKIE_SAMESITE = SESSION_COOKIE_SECURE, True, "Lax"
TIME_ZONE = "UTC"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "static_collected"
WHITENOISE_KEEP_ONLY_HASHED_FILES = True
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.InMemoryStorage"},
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if DEBUG
        else "image_editor.web.static_files.StaticFilesStorage"
    },
}

WEB_THREADS = env.int("IMAGE_EDITOR_WEB_THREADS", default=2)  # of a gunicorn process

# --- database --------------------------------------------------------------------------------------------------------
DATABASES = {"default": env.db_url_config(required("DATABASE_URL") or "postgresql://")}
DATABASES["default"] |= {
    "ENGINE": "image_editor.postgresql",
    "CONN_MAX_AGE": env.int("IMAGE_EDITOR_DATABASE_CONN_MAX_AGE", default=300),
    "CONN_HEALTH_CHECKS": True,  # skipped by the statements of image_editor.shortcuts.database
}
DATABASES["default"].setdefault("OPTIONS", {})
_TIMEOUT = "-c lock_timeout=2s" if sys.argv[1:2] in (["migrate"], ["schema"]) else "-c statement_timeout=15s"
DATABASES["default"]["OPTIONS"] |= {
    "connect_timeout": 2,  # seconds; psycopg has no shorter one
    "prepare_threshold": 5,  # lets psycopg's own cursors prepare statements (image_editor.shortcuts.database)
    # A request or task that waits longer than this for one statement is stuck, not slow. A migration may be slow, but
    # everybody else queues behind the lock that it waits for.
    "options": f"-c timezone=UTC -c idle_in_transaction_session_timeout=60s {_TIMEOUT}",
    # A host that is gone, or a network that is cut, is noticed within about ten seconds.
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 5_000,
}

# --- Redis: db 0 broker, db 1 cache, db 2 results --------------------------------------------------------------------
BROKER_URL = required("BROKER_URL") or "redis://"
CACHE_URL = required("CACHE_URL") or "redis://"
RESULT_BACKEND_ENABLED = env.bool("IMAGE_EDITOR_CELERY_RESULT_BACKEND_ENABLED", default=True)
RESULT_URL = required("RESULT_URL") if RESULT_BACKEND_ENABLED else ""

# --- the task pipeline -----------------------------------------------------------------------------------------------
TASK_PAYLOAD = env.str("IMAGE_EDITOR_TASK_PAYLOAD", default="full")
if TASK_PAYLOAD not in ("full", "id"):
    raise environ.ImproperlyConfigured("IMAGE_EDITOR_TASK_PAYLOAD must be 'full' or 'id'")
TASK_MESSAGE_MAX_BYTES = 64 * 1024
TASK_TIME_LIMIT = env.int("IMAGE_EDITOR_TASK_TIME_LIMIT", default=120)  # seconds; then the pool process is killed
TASK_SOFT_TIME_LIMIT = env.int("IMAGE_EDITOR_TASK_SOFT_TIME_LIMIT", default=max(TASK_TIME_LIMIT * 5 // 6, 1))  # seconds
# Seconds until a worker that was lost no longer holds its edit. A worker renews the lease six times in this time.
TASK_LEASE = min(max(TASK_TIME_LIMIT // 2, 6), 60)
TASK_ATTEMPTS_MAX = env.int("IMAGE_EDITOR_TASK_ATTEMPTS_MAX", default=5)  # without those that a fault of ours ended
# Seconds. An edit that faults of ours postponed is given up at this age.
TASK_MAX_AGE = env.int("IMAGE_EDITOR_TASK_MAX_AGE", default=24 * 3600)
VISIBILITY_TIMEOUT = env.int("IMAGE_EDITOR_VISIBILITY_TIMEOUT", default=TASK_TIME_LIMIT * 5 // 2)  # seconds
if VISIBILITY_TIMEOUT <= TASK_TIME_LIMIT:
    raise environ.ImproperlyConfigured(
        "IMAGE_EDITOR_VISIBILITY_TIMEOUT must exceed IMAGE_EDITOR_TASK_TIME_LIMIT, or a task may run twice at once"
    )
RETENTION_DAYS = env.int("IMAGE_EDITOR_RETENTION_DAYS", default=30)  # days that ended edits are kept; 0: for ever
PURGE_SECONDS = 10.0  # between two rounds of retention
HEAL_SECONDS = 5.0  # between two rounds in which media hosts lose what owners removed, and are made to agree
RECONCILE_SECONDS = env.int("IMAGE_EDITOR_RECONCILE_SECONDS", default=15)

CELERY_BROKER_URL = BROKER_URL
CELERY_RESULT_BACKEND = RESULT_URL or None
CELERY_TASK_IGNORE_RESULT = not RESULT_BACKEND_ENABLED
CELERY_RESULT_EXPIRES = 3600
CELERY_RESULT_COMPRESSION = "zlib"
CELERY_TASK_DEFAULT_QUEUE = queues.EDIT.name
CELERY_TASK_QUEUES = {name: {"exchange": name, "routing_key": name} for name in queues.NAMES}
CELERY_TASK_ROUTES = queues.ROUTES
CELERY_TASK_SERIALIZER = CELERY_RESULT_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
# A worker takes a message when one of its processes is free. Without DISABLE_PREFETCH, a worker that connects again
# would take messages while all its processes are busy with those of the lost connection. kombu's own count of what a
# worker holds is off (0): it never forgets a message whose acknowledgement failed, so each would use up a process.
CELERY_WORKER_DISABLE_PREFETCH = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 0
CELERY_TASK_TIME_LIMIT = TASK_TIME_LIMIT
CELERY_TASK_SOFT_TIME_LIMIT = TASK_SOFT_TIME_LIMIT
CELERY_TASK_TRACK_STARTED = False
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = False
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
CELERY_BROKER_CHANNEL_ERROR_RETRY = True
CELERY_BROKER_POOL_ACQUIRE_TIMEOUT = 5
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "visibility_timeout": VISIBILITY_TIMEOUT,
    "unacked_restore_interval": 10,
    "unacked_restore_throttle": 1,
    # A worker that is cut off while it returns abandoned messages keeps the others from returning any for this long.
    "unacked_mutex_expire": 20,
    "socket_timeout": 5,
    "socket_connect_timeout": 2,
    "socket_keepalive": True,
    "health_check_interval": 10,
}
CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS = {
    "visibility_timeout": VISIBILITY_TIMEOUT,
    "retry_policy": {"max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.2},
}
CELERY_VISIBILITY_TIMEOUT = VISIBILITY_TIMEOUT
CELERY_REDIS_SOCKET_TIMEOUT = 2
CELERY_REDIS_SOCKET_CONNECT_TIMEOUT = 2
CELERY_REDIS_SOCKET_KEEPALIVE = True
CELERY_REDIS_RETRY_ON_TIMEOUT = False
CELERY_REDIS_BACKEND_HEALTH_CHECK_INTERVAL = 10
CELERY_RESULT_BACKEND_ALWAYS_RETRY = False
CELERY_TASK_PUBLISH_RETRY = True
CELERY_TASK_PUBLISH_RETRY_POLICY = {"max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.2}
CELERY_BEAT_SCHEDULER = "image_editor.pipeline.scheduler:LeasedScheduler"
CELERY_BEAT_SCHEDULE = {
    "reconcile": {
        "task": "image_editor.tasks.reconcile",
        "schedule": RECONCILE_SECONDS,
        # A late message is worthless: the next one does the same.
        "options": {"expires": 2 * RECONCILE_SECONDS},
    },
    "sweep": {"task": "image_editor.tasks.sweep", "schedule": 60.0, "options": {"expires": 60}},
    # Also with one store: it loses what owners removed, and what was known of others is forgotten.
    "heal": {"task": "image_editor.tasks.heal", "schedule": HEAL_SECONDS, "options": {"expires": HEAL_SECONDS}},
}
if RETENTION_DAYS:
    CELERY_BEAT_SCHEDULE["purge"] = {
        "task": "image_editor.tasks.purge",
        "schedule": PURGE_SECONDS,
        "options": {"expires": PURGE_SECONDS},
    }

# --- media -----------------------------------------------------------------------------------------------------------
MEDIA_BACKEND = env.str("IMAGE_EDITOR_MEDIA_BACKEND", default="webdav")
if MEDIA_BACKEND == "webdav":
    MEDIA_URLS = [url.rstrip("/") for url in required("MEDIA_URLS").split(",")]
    MEDIA_CA = env.str("IMAGE_EDITOR_MEDIA_CA", default="")
    MEDIA_CERTIFICATE = required("MEDIA_CERTIFICATE")
    MEDIA_KEY = required("MEDIA_KEY")
    # For a media host that does not know the certificate yet. The next release removes both.
    MEDIA_USER = env.str("IMAGE_EDITOR_MEDIA_USER", default="")
    MEDIA_PASSWORD = env.str("IMAGE_EDITOR_MEDIA_PASSWORD", default="")
    MEDIA_PUBLIC_URL = required("MEDIA_PUBLIC_URL").rstrip("/")
    MEDIA_SIGNING_KEY = required("MEDIA_SIGNING_KEY")
elif MEDIA_BACKEND == "s3":
    MEDIA_URLS = []
    S3_ENDPOINT_URL = env.str("IMAGE_EDITOR_S3_ENDPOINT_URL", default="")
    S3_BUCKET = required("S3_BUCKET")
    S3_REGION = env.str("IMAGE_EDITOR_S3_REGION", default="us-east-1")
    S3_ADDRESSING_STYLE = env.str("IMAGE_EDITOR_S3_ADDRESSING_STYLE", default="auto")
    S3_ACCESS_KEY = required("S3_ACCESS_KEY")
    S3_SECRET_KEY = required("S3_SECRET_KEY")
else:
    raise environ.ImproperlyConfigured("IMAGE_EDITOR_MEDIA_BACKEND must be 'webdav' or 's3'")
MEDIA_URL_TTL = env.int("IMAGE_EDITOR_MEDIA_URL_TTL", default=3600)  # seconds

# --- images ----------------------------------------------------------------------------------------------------------
ENGINE = env.str("IMAGE_EDITOR_ENGINE", default="local")
if ENGINE == "openai":
    required("OPENAI_API_KEY")  # the engine reads it; here a missing key is named at start, not at the first edit
UPLOAD_MAX_BYTES = env.int("IMAGE_EDITOR_UPLOAD_MAX_BYTES", default=20 * 1024 * 1024)
PIXELS_MAX = env.int("IMAGE_EDITOR_PIXELS_MAX", default=50_000_000)
SIDE_MIN = 2  # pixels; a thinner image is almost always a mistake
RATE_PER_MINUTE = env.int("IMAGE_EDITOR_RATE_PER_MINUTE", default=600)  # edits of one user; 0: no limit
QUOTA_PER_DAY = env.int("IMAGE_EDITOR_QUOTA_PER_DAY", default=50_000)  # edits of one user; 0: no limit
UPLOAD_BYTES_PER_DAY = env.int("IMAGE_EDITOR_UPLOAD_BYTES_PER_DAY", default=20_000_000_000)  # of one user; 0: no limit
DRY_RUNS_PER_MINUTE = env.int("IMAGE_EDITOR_DRY_RUNS_PER_MINUTE", default=600)  # of one user; 0: no limit
TOKENS_PER_MINUTE = env.int("IMAGE_EDITOR_TOKENS_PER_MINUTE", default=10)  # made by one user; 0: no limit
PROMPT_MAX_CHARS = 2000
URL_MAX_CHARS = 2048
FETCH_ALLOWED_HOSTS = env.list("IMAGE_EDITOR_FETCH_ALLOWED_HOSTS", default=[])
# Debian keeps the public CAs and the operator's own CAs in this file. Without the file, certifi's list is used.
CA_BUNDLE = env.str("IMAGE_EDITOR_CA_BUNDLE", default="/etc/ssl/certs/ca-certificates.crt")
FETCH_TIMEOUT = env.int("IMAGE_EDITOR_FETCH_TIMEOUT", default=30)  # seconds for the whole download
CALLBACK_SIGNING_KEY = required("CALLBACK_SIGNING_KEY")  # of the former header; the next release removes both
# Calls at a time to one receiver, and to all receivers of one user. The second must be less than the number of
# processes that take the callback queue, or a user whose receivers hang stops the callbacks of the others.
WEBHOOK_CALLS_MAX = env.int("IMAGE_EDITOR_WEBHOOK_CALLS_MAX", default=1)
WEBHOOK_CALLS_MAX_USER = env.int("IMAGE_EDITOR_WEBHOOK_CALLS_MAX_USER", default=2)
if min(WEBHOOK_CALLS_MAX, WEBHOOK_CALLS_MAX_USER) < 1:
    names = "IMAGE_EDITOR_WEBHOOK_CALLS_MAX and IMAGE_EDITOR_WEBHOOK_CALLS_MAX_USER"
    raise environ.ImproperlyConfigured(f"{names} must be at least 1, or no callback is delivered")
# A larger Content-Length is refused before the body is read: the largest image and 1 MiB of form fields.
REQUEST_MAX_BYTES = UPLOAD_MAX_BYTES + 1024 * 1024
DATA_UPLOAD_MAX_MEMORY_SIZE = 2 * 1024 * 1024

# --- metrics ---------------------------------------------------------------------------------------------------------
METRICS_ENABLED = env.bool("IMAGE_EDITOR_METRICS_ENABLED", default=False)
# The address:port at which a worker, or the collector, answers Prometheus; its certificate, key and CA; and the common
# names of the certificates of clients that get an answer.
METRICS_LISTEN = env.str("IMAGE_EDITOR_METRICS_LISTEN", default="")
METRICS_TLS = env.list("IMAGE_EDITOR_METRICS_TLS", default=[])
METRICS_CLIENTS = env.list("IMAGE_EDITOR_METRICS_CLIENTS", default=[])
PROMETHEUS_LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, float("inf"))
if METRICS_ENABLED:
    INSTALLED_APPS.insert(-1, "django_prometheus")
    # After the probes, so that health checks are not counted.
    MIDDLEWARE.insert(
        MIDDLEWARE.index("image_editor.web.health.Probes") + 1, "image_editor.observability.request_metrics.Measure"
    )
    DATABASES["default"]["ENGINE"] = "image_editor.observability.postgresql"

# --- logs ------------------------------------------------------------------------------------------------------------
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": "image_editor.observability.json_logging.JSONFormatter"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
    "root": {"handlers": ["stderr"], "level": env.str("IMAGE_EDITOR_LOG_LEVEL", default="INFO")},
    "loggers": {
        "django": {"handlers": [], "propagate": True},
        "django.server": {"handlers": [], "propagate": True},
        # The access log has a line for every request; Django would repeat every 4xx.
        "django.request": {"level": "ERROR"},
        "celery.worker.strategy": {"level": "WARNING"},
        "pyvips": {"level": "WARNING"},
        "celery.app.trace": {"level": "WARNING"},
    },
}
