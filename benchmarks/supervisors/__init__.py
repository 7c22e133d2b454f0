"""captchad's supervision beside other supervisors; run by `make bench-supervisor`."""
