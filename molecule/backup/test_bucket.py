"""A store in a bucket: backup, verification and restore. Debian's moto stands in for S3."""

from __future__ import annotations

import json

import pytest
from helpers import in_soak, playbook, until

pytestmark = in_soak
ENDPOINT = "platform1:9000"
KEYS = {"access_key": "AKIA0000", "secret_key": "stand-in"}
BUCKET = {"endpoint": ENDPOINT, "region": "us-east-1", "bucket": "backups", **KEYS}
KINDS = ("postgresql", "redis", "media")
NGINX = """daemon off; pid /run/bucket.pid; error_log stderr;
events {}
http { access_log off; client_max_body_size 0; server { listen 9000 ssl;
  ssl_certificate /etc/ssl/certs/image-editor.crt; ssl_certificate_key /etc/ssl/private/image-editor.key;
  location / { proxy_pass http://127.0.0.1:9001; proxy_set_header Host $http_host; }
} }
"""


@pytest.fixture(scope="module")
def host(on):
    """A host with a bucket, under a name that is in its certificate."""
    it = on("platform1")
    it.check_output(
        "apt-get -qq update && apt-get -qq -y --no-install-recommends install python3-moto python3-flask-cors >/dev/null"
    )
    # Make the host trust the bucket's certificate. A real bucket has a public certificate.
    it.check_output(
        "cp /etc/ssl/certs/image-editor-ca.crt /usr/local/share/ca-certificates/platform.crt && update-ca-certificates"
    )
    # nginx is in front, because moto's own server closes TLS connections without notice, which pgBackRest takes for an error.
    it.check_output("systemctl is-active moto || systemd-run -q --unit moto moto_server -p 9001")
    it.check_output("printf %s > /etc/nginx/bucket.conf", NGINX)
    it.check_output("systemctl is-active bucket || systemd-run -q --unit bucket nginx -c /etc/nginx/bucket.conf")
    until("the bucket answers", lambda: it.run(f"curl -sSf https://{ENDPOINT}/").rc == 0, 60)
    client = (
        f"import boto3; c = boto3.client('s3', endpoint_url='https://{ENDPOINT}', region_name='us-east-1',"
        f" aws_access_key_id='{KEYS['access_key']}', aws_secret_access_key='{KEYS['secret_key']}',"
        " verify='/etc/ssl/certs/image-editor-ca.crt')"
    )
    it.check_output("/usr/bin/python3 -c %s", f"{client}; c.create_bucket(Bucket='backups')")
    it.bucket = lambda: it.check_output(
        "/usr/bin/python3 -c %s",
        f"{client}; print(*(o['Key'] for o in c.list_objects_v2(Bucket='backups').get('Contents', [])), sep='\\n')",
    ).split()
    return it


def sql(host, statement: str) -> str:
    return host.check_output("cd / && runuser -u postgres -- psql -XtAqd image_editor -v ON_ERROR_STOP=1 -c %s", statement)


def test_every_kind_is_backed_up_to_the_bucket_verified_and_restored(host):
    sql(host, "CREATE TABLE IF NOT EXISTS edit (id int, prompt text)")
    sql(host, "TRUNCATE edit; INSERT INTO edit SELECT i, 'greyscale' FROM generate_series(1, 1000) i")
    image = "/var/lib/image-editor-media/files/results/1/1.jpg"
    host.check_output(f"mkdir -p $(dirname {image}) && echo 1 > {image} && chown -R www-data: /var/lib/image-editor-media/files")
    host.check_output("image-editor-redis-cli SET one 1")
    ran = playbook("molecule/backup/converge.yml", "-e", json.dumps({"backup_store_s3": BUCKET}))
    assert ran.returncode == 0, ran.stdout[-5000:]
    assert KEYS["secret_key"] not in ran.stdout
    for kind in KINDS:
        assert f"ok {kind}" in host.check_output("image-editor-backup run %s", kind)
    assert {name.split("/")[0] for name in host.bucket()} == {"pgbackrest", "store"}
    said = host.check_output("image-editor-backup run verify")
    assert [line.split(":")[0] for line in said.splitlines() if line.startswith("ok ")] == [f"ok {kind}" for kind in KINDS]

    moment = host.check_output("sleep 2; date --iso-8601=seconds; sleep 2")
    sql(host, "DELETE FROM edit")
    host.check_output(f"image-editor-redis-cli SET one 2 && rm {image}")
    host.check_output("image-editor-backup restore-postgresql --to %s", moment)
    host.check_output("image-editor-backup restore-redis && image-editor-backup restore-media")
    assert sql(host, "SELECT count(*) FROM edit") == "1000"
    assert host.check_output("image-editor-redis-cli GET one") == "1"
    assert host.check_output("cat %s", image) == "1"
