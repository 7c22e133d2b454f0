"""The two programs: captchad (the daemon and its helpers) and captchactl (the operator's tool)."""
