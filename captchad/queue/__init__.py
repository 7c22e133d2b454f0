"""The queue: a view made by applying journal records, and the verbs that stage them."""
