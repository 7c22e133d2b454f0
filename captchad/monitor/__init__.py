"""What faces the network: health, metrics and a status page, in a process of its own without keys and journal."""
