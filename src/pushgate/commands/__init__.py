"""The commands, a module each: parse, call, print, exit code. Imported only when they are asked for.

stdout is the answer, `--json` makes it one for machines; stderr is for people. Exit codes: 0 done, 1 failed, 2 usage or
configuration. Secrets come from files or the environment, never by flag.
"""
