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


def _replace(module: AnsibleModule, path: Path, content: bytes, validate: str | None = None) -> None:
    """Write ``content`` to ``path`` at once. If ``validate`` refuses it, ``path`` stays as it is."""
    descriptor, name = tempfile.mkstemp(dir=module.tmpdir)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
    if validate:
        rc, out, err = module.run_command(validate % name)
        if rc != 0:
            raise OSError(f"failed to validate: {(out + err).strip()}")
    if not path.parent.is_dir():
        raise NotADirectoryError(f"the directory {path.parent} does not exist")
    if path.is_symlink():
        path.unlink()
    module.atomic_move(name, str(path))


def _ensure_file(module: AnsibleModule, path: Path, entry: dict) -> bool:
    content = entry["content"].encode()
    if path.is_file() and not path.is_symlink() and path.read_bytes() == content:
        return _set_attributes(module, path, entry)
    # In check mode a program cannot check the content, because other files that it reads are not written either.
    if not module.check_mode:
        _replace(module, path, content, entry["validate"])
        _set_attributes(module, path, entry)
    return True


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


def ensure(module: AnsibleModule, entries: list[dict]) -> dict[str, dict]:
    """Bring each entry (see ``ENTRY``) to its state, in their order.

    Return the difference of each path that changed, or that check mode would change, for ``--diff``. If an entry fails, the
    files before it get their former content back: the task fails, so it would notify no handler of them.
    """
    os.umask(0o077)  # nobody else reads a new file before its mode is set
    differences: dict[str, dict] = {}
    former: dict[Path, tuple[bytes, os.stat_result] | None] = {}
    for entry in entries:
        path = Path(entry["path"])
        try:
            if entry["state"] == "file":
                regular = path.is_file() and not path.is_symlink()
                former[path] = (path.read_bytes(), path.stat()) if regular else None
            before = path.read_text(errors="replace") if path.is_file() else ""
            changed = STATES[entry["state"]](module, path, entry)
        except OSError as error:
            if not module.check_mode:
                _put_back(module, {path: former[path] for path in former if str(path) in differences})
            module.fail_json(msg=f"cannot bring {path} to the state {entry['state']}: {error}", path=str(path))
        if changed:
            after = entry["content"] if entry["state"] == "file" else entry["state"] + "\n"
            differences[str(path)] = {"before_header": str(path), "after_header": str(path), "before": before, "after": after}
    return differences


def _put_back(module: AnsibleModule, files: dict[Path, tuple[bytes, os.stat_result] | None]) -> None:
    for path, known in files.items():
        if known is None:
            path.unlink()
        else:
            content, status = known
            _replace(module, path, content)
            os.chown(path, status.st_uid, status.st_gid)
            path.chmod(status.st_mode & 0o7777)
