"""Measures ours beside others on the user's machine; each module is imported by what needs it, to start fast."""
