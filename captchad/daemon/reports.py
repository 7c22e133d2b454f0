"""What consumers say of answers, sent on to the providers: the record first, so that none is ever sent twice."""

__all__ = ["report"]

from captchad.control.server import Pending, Reply
from captchad.control.wire import Answer, ok, refuse
from captchad.daemon.asks import Fault, Told
from captchad.daemon.parts import Parts
from captchad.model.codes import lookup
from captchad.model.errors import JournalDown, TryLater
from captchad.queue.queue import Refusal


def report(parent: Parts, task_id: str, verdict: str) -> Reply:
    """Report the answer of a solved task as `good` or `bad`; the reply is what its provider says.

    Whatever dies after the commit, and whatever the provider says: it is not reported again. Raises JournalDown and
    TryLater: then nothing was recorded, nor sent.
    """
    if verdict not in ("good", "bad"):
        return refuse("an answer is reported as good or bad", code=2)
    queue, lanes, asks = parent.queue, parent.providers.lanes, parent.dispatcher.asks
    if not queue.accepts_work:
        raise JournalDown(
            "the journal takes no new work now: " + (queue.down_reason or queue.no_room or "the disk is full"),
            hint="nothing was sent; try again when there is room",
        )
    if not asks.able:
        raise TryLater("there is no worker that could send it now", hint="nothing was sent; try again in a moment")
    known = queue.view.tasks.peek(task_id)
    if known is not None and (banned_s := parent.providers.suspended_s(known.provider or "")):
        raise TryLater(
            f"provider {known.provider} refuses every call for {banned_s:.0f} s",
            hint="nothing was sent; try again then",
        )
    task = queue.report(task_id, verdict, lanes)
    if isinstance(task, Refusal):
        return refuse(f"{task_id}: {task.reason}")
    pending, lane, cid = Pending(), lanes[task.provider or ""], task.cid or ""

    def told(answer: Told | Fault) -> None:
        parent.providers.note(lane.name, "report", answer.code if isinstance(answer, Fault) else "ok")
        pending.resolve(_reply(task_id, verdict, lane.name, answer))

    queue.after_commit(
        lambda: asks.ask(lane.name, lane.settings.key.id, "good" if verdict == "good" else "bad", told, cid)
    )
    return pending


def _reply(task_id: str, verdict: str, provider: str, answer: Told | Fault) -> Answer:
    if isinstance(answer, Told):
        return ok({"id": task_id, "provider": provider, "reported": verdict})
    words = answer.text or lookup(answer.code).meaning
    if answer.code in ("INTERNAL", "NETWORK", "UNPARSEABLE", "HTTP_5XX"):
        return refuse(
            f"{task_id}: it is not known whether provider {provider} has recorded it: {answer.code} ({words})",
            hint="it is not sent again: a captcha is reported once",
        )
    return refuse(f"{task_id}: provider {provider} has not recorded it: {answer.code} ({words})")
