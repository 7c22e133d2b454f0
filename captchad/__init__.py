"""captchad: a supervisor daemon that carries CAPTCHA tasks to a solving service and loses none."""

__version__ = "0.1.0"
