"""Ansible's linear strategy, carried by Mitogen where Mitogen is importable.

Mitogen keeps one Python interpreter on each host for the whole run instead of starting one per task.
ansible-core intends to drop third-party strategies, so nothing here may depend on it: without Mitogen
(or with ``ANSIBLE_STRATEGY=linear``) every playbook does the same work, only slower.
"""

from __future__ import annotations

from ansible.plugins.strategy.linear import StrategyModule as LinearStrategy

DOCUMENTATION = """
name: accelerated
short_description: The linear strategy, over Mitogen where it is installed
description:
    - Executes tasks in lockstep exactly as C(linear) does.
    - Uses Mitogen as the transport where it can be imported.
author: The maintainers of this repository
"""

try:
    from ansible_mitogen.strategy import StrategyMixin
except ImportError:

    class StrategyModule(LinearStrategy):
        """Plain linear: Mitogen is not installed."""

else:

    class StrategyModule(StrategyMixin, LinearStrategy):  # type: ignore[no-redef]
        """Linear over Mitogen."""
