"""Words of the trade: tasks, states, error codes, clocks, exceptions. Imports nothing of captchad's."""
