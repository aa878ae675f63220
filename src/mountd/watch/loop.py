"""`mountd watch`: events → passes. It converges, and keeps it so.

One thread waits for all that can happen and makes the passes; where a look may hang, another thread
makes it. An event says only that there is something to look at.
"""

import gc
import select
import signal
import traceback
from contextlib import ExitStack, suppress
from time import monotonic

from mountd.core.actions import Report
from mountd.exits import LockedError, StateError, WatchedError
from mountd.kernel.patience import Patience, StoppedError
from mountd.kernel.table import MountTable
from mountd.manifest.layers import manifest_id
from mountd.manifest.load import Manifest
from mountd.reconcile.passes import Settings
from mountd.reconcile.state import WatchLock, state_folder
from mountd.report.journal import DEBUG, INFO, Journal
from mountd.watch.awaited import accounts_elsewhere, accounts_of_root, awaited_by
from mountd.watch.bell import Bell
from mountd.watch.glances import content
from mountd.watch.in_force import Latest
from mountd.watch.places import Places
from mountd.watch.systemd import Supervisor
from mountd.watch.troubles import Troubles, ends_a_start, fault_of_ours, in_words
from mountd.watch.upkeep import Upkeep

_RESYNC = 60.0
_SETTLE = 0.05
"""Delay of the pass after somebody else's mount or unmount, or after what was awaited has come, so
that a burst costs one pass."""
_AGAIN = 0.05
"""Retry interval while another process holds the lock, or is saving the manifest."""
_IDLE_TIMES = 4
"""After a look that found nothing, or a pass, the pause is this many times as long as it took."""
_DYING = 2.0
"""Seconds for which a watch that was killed may keep its lock: until its children are gone, too."""
_OTHERS = 1.0
"""Seconds until it is seen whether another process still watches."""


class Watch:
    """The loop; what it makes of the manifest is `upkeep`'s."""

    def __init__(
        self, settings: Settings, journal: Journal, supervisor: Supervisor, wait: float
    ) -> None:
        """Another's pass is reported as trouble once it has taken more than `wait` seconds."""
        self._settings = settings
        self._most_wait = wait
        self._journal = journal
        self._supervisor = supervisor
        self._bell = Bell()
        self._patience = Patience(self._ring_for_a_pass)
        self._table = MountTable()
        self._upkeep = Upkeep(settings.state_dir, self._table, self._patience, journal)
        self._places = Places(self._bell.ring, self._ring_for_a_pass)
        self._latest = Latest(settings, journal)
        self._lock = WatchLock(settings.state_dir)
        self._is_rung = False
        self._is_reload = False
        self._is_ready = False
        self._has_begun = False
        self._must_read = True
        self._due = 0.0
        self._next_look = 0.0
        self._next_ping = 0.0
        self._pass_took = 0.0
        self._pass_ended = 0.0
        self._locked_since: float | None = None
        self._failures = 0
        """Passes of late that something failed in: the next comes sooner than a resync."""
        self._crashes = 0
        """Faults of our own of late."""
        self._crashed = 0.0
        self._freed = -_RESYNC
        """When news were last free for an edit of accounts, which some users can make."""
        self._troubles = Troubles(self._upkeep.news, self._tell_status)

    def run(self) -> None:
        """Until SIGTERM or SIGINT. Raises ManifestError, LockedError or StateError at the start."""
        gc.enable()
        with ExitStack() as held:
            held.enter_context(self._lock)
            held.enter_context(self._table)
            self._take_signals()
            with suppress(OSError, LockedError):  # which the pass will meet, too
                self._hold_lock()
            with suppress(StoppedError):
                while True:
                    self._patience.go_on()
                    self._try_turn()
        self._supervisor.stopping()

    def _try_turn(self) -> None:
        try:
            self._turn()
        except StoppedError:
            raise
        except Exception as error:  # or whoever finds a fault of ours can end us by it
            if ends_a_start(error) and not self._has_begun:
                raise
            self._go_on_after(error)

    def _go_on_after(self, error: Exception) -> None:
        """Say what we didn't foresee, and go on: what is mounted stays, and the record is whole.

        More of them come ever more slowly, so that they cost nobody a processor or a disk.
        """
        if self._troubles.tell("self", fault_of_ours(error), "internal-error"):
            lines = "".join(traceback.format_exception(error)).splitlines()
            self._journal.tell(lines, "internal-error", DEBUG)
        pause = min(2.0**self._crashes, _RESYNC)
        self._crashes = min(self._crashes + 1, 10)
        self._crashed = monotonic()
        self._must_read = True
        self._due = self._next_look = monotonic() + pause
        self._become_ready()
        with suppress(Exception):
            self._ping(monotonic())
            self._bell.wait(min(pause, 1.0))

    @property
    def result(self) -> Report:
        """The volumes as the latest passes left them."""
        files = self._latest.manifest.files if self._latest.manifest else ()
        upkeep = self._upkeep
        return Report(files, (*upkeep.outcomes.values(), *upkeep.stuck), is_dry=False)

    def _take_signals(self) -> None:
        signal.set_wakeup_fd(self._bell.rope, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, self._reload)

    def _stop(self, *_: object) -> None:
        self._patience.is_stopped = True

    def _reload(self, *_: object) -> None:
        self._is_reload = True

    def _ring_for_a_pass(self) -> None:
        self._is_rung = True
        self._bell.ring()

    def _turn(self) -> None:
        """Do what is to be done now, then wait for what comes next."""
        if self._is_reload:
            self._is_reload = False
            self._supervisor.reloading()
            self._begin_anew()
            self._is_ready = False
        if self._places.has_edit:
            self._places.has_edit = False
            self._must_read = True
            self._due = 0.0
            self._failures = 0
            if monotonic() - self._freed > _RESYNC:
                self._freed = monotonic()
                self._upkeep.news.is_free = True
        if self._is_rung:
            self._is_rung = False
            self._come_soon(_SETTLE)  # what has just come may not be its owner's yet: a home
        self._troubles.see_edits(self._places.trouble)
        if (closing := self._upkeep.news.due) and closing <= monotonic():
            self._upkeep.close_news()
        if (held := self._upkeep.next_repair()) and held <= monotonic():
            self._upkeep.release_held()
            self._due = 0.0
        if self._due <= monotonic():
            self._pass()
        self._wait()

    def _begin_anew(self) -> None:
        self._must_read = True
        self._due = 0.0
        self._failures = 0
        self._upkeep.forgive()

    def _come_soon(self, settle: float = 0.0) -> None:
        """Have a pass made, but don't make passes all the time, whatever others do."""
        rest = self._pass_ended + _IDLE_TIMES * self._pass_took
        self._due = min(self._due, max(monotonic() + settle, rest))

    def _wait(self) -> None:
        now = monotonic()
        until = min(self._due, self._ping(now) or self._due)
        until = min(until, self._upkeep.next_repair() or until)
        until = min(until, self._upkeep.news.due or until)
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        late = self._patience.descriptors
        for each in late:
            poll.register(each, select.POLLIN)
        if self._latest.manifest and now >= self._next_look:
            poll.register(self._table, select.POLLPRI)  # mountinfo is always readable
        elif self._latest.manifest:
            until = min(until, self._next_look)
        for descriptor, _ in poll.poll(max(0.0, until - now) * 1000):
            if descriptor == self._bell.fileno():
                self._bell.hear()
            elif descriptor in late:
                self._patience.collect()
            elif self._latest.manifest:
                self._look_at_mounts()

    def _ping(self, now: float) -> float | None:
        """Tell the supervisor that we are alive, if it's time; when the next time is."""
        if not (interval := self._supervisor.watchdog):
            return None
        if now >= self._next_ping:
            self._supervisor.ping()
            self._next_ping = now + interval
        return self._next_ping

    def _look_at_mounts(self) -> None:
        """Put back what drifted, as soon as it is found; what else changed can wait a little."""
        begin = monotonic()
        is_quiet = True
        for changes in self._table.changes():
            if drifted := self._upkeep.drifted(changes):
                is_quiet = False
                self._repair(drifted)
            if self._upkeep.concerns(changes):
                self._come_soon(_SETTLE)
        if is_quiet:
            end = monotonic()
            self._next_look = end + _IDLE_TIMES * (end - begin)

    def _repair(self, drifted: set[str]) -> None:
        manifest = self._latest.manifest
        assert manifest, "without one nothing drifts"
        try:
            self._hold_lock()
            # a manual `mountd reconcile` may have applied an edit that we haven't read: not drift
            if self._latest.is_outdated or not self._upkeep.repair(manifest, drifted):
                self._come_soon()
        except LockedError:  # the pass that runs may be at it
            self._due = min(self._due, monotonic() + _AGAIN)
        except (StateError, OSError):
            self._come_soon()  # and that tells what is wrong
        else:
            self._try_again_if_failed()
        self._tell_status()

    def _pass(self) -> None:
        """One of the whole manifest, which is read again if it isn't what it was."""
        self._due = monotonic() + _RESYNC
        self._journal.begin_pass()
        before = self._latest.manifest
        try:
            if not self._latest.read(anew=self._must_read):
                self._due = monotonic() + _AGAIN
                return
        except OSError as error:
            self._troubles.tell("pass", in_words(error))
            self._try_again()
            self._become_ready()
            return
        self._must_read = False
        news = self._upkeep.news
        if (manifest := self._latest.manifest) is not before and manifest != before:
            self._upkeep.forgive()  # whoever was first to see the edit
        seen = dict(self._latest.seen)
        if manifest:
            seen |= {path: content(path) for path in accounts_of_root(manifest)}
            self._places.watch_arrivals(accounts_elsewhere(manifest))
        if not self._converge(manifest):
            return
        if manifest:
            state_dir = self._settings.state_dir
            awaited = awaited_by(manifest, self._upkeep.outcomes, self._upkeep.raw, state_dir)
            elsewhere = accounts_elsewhere(manifest)
            self._places.watch_arrivals({**elsewhere, **self._upkeep.sources, **awaited})
        seen[self._lock.path] = content(self._lock.path)
        self._places.watch_edits(seen)
        news.is_free = False
        if monotonic() - self._crashed > _RESYNC:
            self._crashes = 0
            self._troubles.end("self")
        if not self._has_begun:
            self._has_begun = True
            name = manifest_id(self._settings.manifest)
            self._journal.tell(f"watching {name}: {self._status()}", "watching", INFO)
        if self._is_ready:
            self._tell_status()
        self._become_ready()

    def _become_ready(self) -> None:
        if not self._is_ready:
            self._is_ready = True
            self._journal.finish(patience=0.1)  # whoever waits for us finds there what became of it
            self._supervisor.ready(self._status())

    def _hold_lock(self) -> None:
        """Be the only one who watches, still. Raises LockedError, StateError and OSError."""
        if not self._lock.is_held:
            with state_folder(self._settings.state_dir) as folder:
                self._lock.hold(folder)

    def _converge(self, manifest: Manifest | None) -> bool:
        """Whether the pass could be made, or only failed."""
        begin = monotonic()
        try:
            self._hold_lock()
            if manifest:
                self._upkeep.converge(manifest)
        except LockedError as error:
            self._wait_for_lock(error)
            return False
        except (StateError, OSError) as error:
            if ends_a_start(error) and not self._has_begun:
                raise
            self._troubles.tell("pass", in_words(error))
            self._try_again()
        else:
            self._troubles.end("pass")
            self._try_again_if_failed()
        finally:
            self._pass_ended = monotonic()
            self._pass_took = self._pass_ended - begin
        self._locked_since = None
        return True

    def _wait_for_lock(self, error: LockedError) -> None:
        now = monotonic()
        self._locked_since = self._locked_since or now
        self._due = now + _AGAIN
        if isinstance(error, WatchedError):
            if not self._has_begun and now - self._locked_since > _DYING:
                raise error
            if self._has_begun:
                self._due = now + _OTHERS
        if now - self._locked_since > self._most_wait:
            self._troubles.tell("pass", str(error))

    def _try_again_if_failed(self) -> None:
        """No event tells that what failed would not fail now: try it ever more rarely."""
        if self._upkeep.has_failed:
            self._try_again()
        else:
            self._failures = 0

    def _try_again(self) -> None:
        self._due = min(self._due, monotonic() + min(2.0**self._failures, _RESYNC))
        self._failures = min(self._failures + 1, 10)

    def _status(self) -> str:
        parts = [*self._troubles.sentences, self._latest.trouble]
        if self._latest.manifest:
            parts.insert(0, self._upkeep.status())
        return "; ".join(each for each in parts if each)

    def _tell_status(self) -> None:
        if self._is_ready:
            self._supervisor.status(self._status())
