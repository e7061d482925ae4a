"""Bring one file, directory or link of a host to its state. Modules of this repository share it."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

MODES = {"file": "0644", "directory": "0755"}


def _set_attributes(module: AnsibleModule, path: Path, entry: dict) -> bool:
    """Set owner, group and mode of ``path``; return whether that changed anything, or would."""
    wanted = {"owner": entry["owner"], "group": entry["group"], "mode": entry["mode"] or MODES[entry["state"]]}
    return module.set_fs_attributes_if_different(module.load_file_common_arguments(wanted, str(path)), False)


def _ensure_directory(module: AnsibleModule, path: Path, entry: dict) -> bool:
    missing = [directory for directory in (path, *path.parents) if not directory.exists()]
    if missing and not path.is_symlink() and not module.check_mode:
        for directory in reversed(missing):
            directory.mkdir()
            _set_attributes(module, directory, entry)
    return bool(missing) or _set_attributes(module, path, entry)


def _ensure_file(module: AnsibleModule, path: Path, entry: dict) -> bool:
    content = entry["content"].encode()
    same = path.is_file() and not path.is_symlink() and path.read_bytes() == content
    if not same:
        descriptor, name = tempfile.mkstemp(dir=module.tmpdir)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        if entry["validate"]:
            rc, out, err = module.run_command(entry["validate"] % name)
            if rc != 0:
                module.fail_json(msg=f"the content for {path} is not valid: {(out + err).strip()}", path=str(path), rc=rc)
        if module.check_mode:
            return True
        if not path.parent.is_dir():
            raise NotADirectoryError(f"{path.parent} is no directory")
        if path.is_symlink():
            path.unlink()
        module.atomic_move(name, str(path))
    return _set_attributes(module, path, entry) or not same


def _ensure_link(module: AnsibleModule, path: Path, entry: dict) -> bool:
    if path.is_symlink() and str(path.readlink()) == entry["target"]:
        return False
    if not module.check_mode:
        path.unlink(missing_ok=True)
        path.symlink_to(entry["target"])
    return True


def _ensure_absent(module: AnsibleModule, path: Path, entry: dict) -> bool:
    if not path.exists() and not path.is_symlink():
        return False
    if not module.check_mode:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    return True


STATES = {"file": _ensure_file, "directory": _ensure_directory, "link": _ensure_link, "absent": _ensure_absent}

# The options of one entry, for an argument specification.
ENTRY = {
    "path": {"type": "path", "required": True},
    "state": {"choices": list(STATES), "default": "file"},
    "content": {"type": "str", "no_log": False},
    "target": {"type": "path"},
    "owner": {"default": "root"},
    "group": {"default": "root"},
    "mode": {"type": "raw"},
    "validate": {"type": "str"},
}


def ensure(module: AnsibleModule, entry: dict) -> dict | None:
    """Bring ``entry`` (see ``ENTRY``) to its state. Return its difference for ``--diff`` if something changed, or would."""
    path = Path(entry["path"])
    before = path.read_text(errors="replace") if path.is_file() else ""
    os.umask(0o077)  # nobody else reads a new file before its mode is set
    try:
        changed = STATES[entry["state"]](module, path, entry)
    except OSError as error:
        module.fail_json(msg=f"cannot bring {path} to the state {entry['state']}: {error}", path=str(path))
    if not changed:
        return None
    after = entry["content"] if entry["state"] == "file" else entry["state"] + "\n"
    return {"before_header": str(path), "after_header": str(path), "before": before, "after": after}
