"""captchad's queue against its peers: the same tasks, each acknowledged only when on disk. See docs/benchmarks.md."""
