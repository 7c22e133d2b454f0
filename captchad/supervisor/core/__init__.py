"""The parent's decisions about its workers: plain data and pure functions, no process, no clock, no disk.

A view (`view`) is changed by what happens (`events`); what is to be done about it says `decide`. Whoever carries that
out, the crew or the simulator, tells the view in turn.
"""
