ASK = "python3 -c \"import socket; s=socket.create_connection(('127.0.0.1', 8000), 10); print(s.recv(99).decode())\""


def test_socket_is_held_while_the_service_restarts(host):
    before = host.check_output(ASK)
    host.check_output("systemctl stop probe-web.service")
    assert host.socket("tcp://127.0.0.1:8000").is_listening
    after = host.check_output(ASK)
    assert before != after


def test_killed_service_comes_back(host):
    pid = host.check_output("systemctl show -P MainPID probe-worker@edit.service")
    host.check_output(f"kill -9 {pid}")
    host.check_output("timeout 20 sh -c 'until systemctl is-active -q probe-worker@edit.service; do sleep 0.2; done'")
    assert host.check_output("systemctl show -P MainPID probe-worker@edit.service") != pid


def test_both_instances_run_within_their_memory(host):
    for queue in ("edit", "batch"):
        unit = f"probe-worker@{queue}.service"
        assert host.service(unit).is_running
        assert host.check_output(f"systemctl show -P MemoryMax {unit}") == str(64 * 2**20)


def test_timer_is_waiting(host):
    assert host.check_output("systemctl is-active probe-nightly.timer") == "active"


def test_service_cannot_write_the_system_nor_gain_privileges(host):
    pid = host.check_output("systemctl show -P MainPID probe-worker@edit.service")
    status = host.file(f"/proc/{pid}/status").content_string
    assert "NoNewPrivs:\t1" in status
    assert "CapBnd:\t0000000000000000" in status
    assert host.run(f"nsenter -t {pid} -m touch /etc/touched").rc != 0
