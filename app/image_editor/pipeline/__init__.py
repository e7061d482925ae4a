"""An edit from acceptance to its end: states, messages, tasks, and what repairs them."""
