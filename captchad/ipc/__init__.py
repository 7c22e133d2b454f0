"""What processes of captchad share to talk: an event loop and a framed, never blocking channel."""
