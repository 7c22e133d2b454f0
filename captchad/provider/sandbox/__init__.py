"""The practice provider: speaks in.php/res.php, keeps a ledger of charges, misbehaves as its scenario says.

A room of its own inside `provider`: it shares no code with the client, so that the two can prove each other wrong.

    main      arguments, listening, signals
    http1     HTTP/1.1 over asyncio: parsing, and the ways in which an answer can be delivered badly
    form      one dictionary of fields out of query, urlencoded, multipart and JSON
    scenario  the TOML file, read and checked
    chance    numbers drawn from the seed
    faults    which call is struck, and how
    limits    the provider's rate limits and bans
    methods   what each captcha method requires
    answers   what each captcha method yields
    ledger    accounts, captchas, money
    pingback  callbacks
    actions   in.php, solve.php, res.php
    admin     /_sandbox/*
"""
