"""Ansible's linear strategy, with Mitogen as the transport where Mitogen can be imported.

Mitogen keeps one Python interpreter on each host for the whole run. Ansible starts one for each task.
ansible-core has deprecated third-party strategies, so no playbook may depend on this one. Without Mitogen, or with
``ANSIBLE_STRATEGY=linear``, every playbook does the same work more slowly.
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
    from ansible_mitogen import affinity
    from ansible_mitogen.strategy import StrategyMixin
except ImportError:

    class StrategyModule(LinearStrategy):
        """Plain linear: Mitogen is not installed."""

else:
    # By default Mitogen pins every process to a processor. With two processors it leaves one of them to a single
    # process that mostly waits, so a run takes half as long again. The kernel chooses better.
    affinity.policy = affinity.Policy()

    class StrategyModule(StrategyMixin, LinearStrategy):  # type: ignore[no-redef]
        """Linear over Mitogen."""
