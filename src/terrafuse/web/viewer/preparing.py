"""Scenes of a page that are made ready one by one, and how far each of them is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from terrafuse.errors import SceneNotFoundError, TerrafuseError, unknown_name
from terrafuse.progress import Progress
from terrafuse.version import VERSION
from terrafuse.web.viewer.document import Entry, ViewIndex
from terrafuse.web.viewer.scenes import SOON, Plan, Subject
from terrafuse.web.viewer.shown import Shown
from terrafuse.web.viewer.subjects import Collection

#: Changes a view before it is shown, such as by what can be painted on it.
Finish = Callable[[Subject, Shown], Shown]


class NotReadyError(TerrafuseError, RuntimeError):
    """A scene has to be made ready first."""


@dataclass
class _Work:
    """How far a scene is: waiting, running, ready or failed."""

    state: str = "waiting"
    done: int = 0
    total: int = 0
    error: str | None = None
    shown: Shown | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class Preparer:
    """The scenes of a page.

    One is made ready at a time, as each of them may need all of the machine.

    Args:
        collection: What the page is of.
        finish: Changes each view at the end.
        say: Takes notes for whoever started the server.
        veil: Makes of a message what those who look at the page may read.
    """

    def __init__(
        self,
        collection: Collection,
        *,
        finish: Finish | None = None,
        say: Callable[[str], None] | None = None,
        veil: Callable[[str], str] = str,
    ) -> None:
        self.collection, self.veil = collection, veil
        self._finish, self._say = finish, say
        self._works = {id: _Work() for id in collection.subjects}
        self._one_at_a_time, self._beginning = threading.Lock(), threading.Lock()

    def index(self, *, is_static: bool = False) -> ViewIndex:
        """The list of scenes as it stands."""
        return ViewIndex(
            title=self.collection.title,
            software=f"terrafuse {VERSION}",
            is_static=is_static,
            views=tuple(
                Entry(
                    id=id,
                    title=subject.title,
                    split=subject.split,
                    href=f"v/{id}/view.json",
                    state="ready" if is_static or self._works[id].shown else "waiting",
                    make=None if is_static else f"v/{id}/make",
                )
                for id, subject in self.collection.subjects.items()
            ),
        )

    def subject(self, id: str) -> Subject:
        """The scene of an id.

        Raises:
            SceneNotFoundError: There is none.
        """
        if id not in self.collection.subjects:
            known = list(self.collection.subjects)[:20]
            raise SceneNotFoundError(unknown_name("scene", id, known))
        return self.collection.subjects[id]

    def prepare_soon(self, id: str) -> None:
        """Make a scene ready if that takes no more than reading some overviews.

        Raises:
            TerrafuseError: Nothing of it can be shown.
        """
        subject, work = self.subject(id), self._works[id]
        if subject.make is not None and not subject.is_made():
            return
        plan = Plan(subject)
        if plan.to_make <= SOON:
            self._show(subject, work, plan, None)

    def ready(self, id: str) -> Shown:
        """The scene, where it is ready or soon can be.

        Raises:
            NotReadyError: It takes longer, and must be asked for.
            TerrafuseError: Nothing of it can be shown.
        """
        self.subject(id)
        work = self._works[id]
        if work.shown is None and work.state != "running":
            with work.lock:
                if work.shown is None:
                    self.prepare_soon(id)
        if work.shown is None:
            raise NotReadyError(f"scene '{id}' is not ready yet. POST v/{id}/make, and wait")
        return work.shown

    def shown(self, id: str, progress: Progress | None = None) -> Shown:
        """The scene, made ready if it is not.

        Args:
            id: Of the scene.
            progress: Called with (done, total).

        Raises:
            TerrafuseError: It cannot be.
        """
        subject, work = self.subject(id), self._works[id]

        def tell(done: int, total: int) -> None:
            work.done, work.total = done, total
            if progress:
                progress(done, total)

        with work.lock:
            if work.shown is None:
                with self._one_at_a_time:
                    if subject.make is not None and not subject.is_made():
                        subject.make(tell)
                    self._show(subject, work, Plan(subject), tell)
            assert work.shown is not None
            return work.shown

    def begin(self, id: str) -> Mapping[str, Any]:
        """Begin to make a scene ready, unless that is going on; say how far it is."""
        self.subject(id)
        work = self._works[id]
        with self._beginning:
            if work.shown is None and work.state != "running":
                work.state, work.error = "running", None
                threading.Thread(target=self._run, args=(id,), daemon=True).start()
        return self.progress(id)

    def progress(self, id: str) -> Mapping[str, Any]:
        """How far a scene is: state, done, total, error."""
        self.subject(id)
        work = self._works[id]
        state = "ready" if work.shown else work.state
        return {"state": state, "done": work.done, "total": work.total, "error": work.error}

    def _run(self, id: str) -> None:
        work = self._works[id]
        try:
            self.shown(id)
        except (TerrafuseError, OSError, MemoryError) as error:
            work.error = self.veil(str(error))
            work.state = "failed"
            if self._say:
                self._say(f"{self.collection.subjects[id].title}: {error}")
        except BaseException:
            work.error = "a failure of terrafuse itself; the terminal of the server says more"
            work.state = "failed"
            raise
        else:
            work.state = "ready"

    def _show(self, subject: Subject, work: _Work, plan: Plan, progress: Progress | None) -> None:
        shown = plan.show(progress)
        notes = tuple(map(self.veil, shown.view.notes))
        shown = replace(shown, view=shown.view.model_copy(update={"notes": notes}))
        work.shown = self._finish(subject, shown) if self._finish else shown
