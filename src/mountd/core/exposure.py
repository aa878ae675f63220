"""Who could leave setuid files of another's on a source, and who could run them.

In a swap of the owner U and the user u, what u makes is U's on the source, and the reverse. That
our own mount is nosuid is no help where another shows the same files. So all mounts are judged at
once, as they are and as this pass will leave them, and what is mounted already anew in each pass.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from mountd.core.actions import Judgement
from mountd.core.choice import ROOT, shown_owner
from mountd.core.desired import Desired, DesiredMount, View
from mountd.core.idmapping import Idmapping, seen_as
from mountd.core.model import Fault, Ids, Volume
from mountd.core.mounts import Managed, Observed, ObservedMount, is_same
from mountd.core.named_tuple import NamedTuple
from mountd.core.sights import Sights, root_of
from mountd.core.targets import folders_above
from mountd.core.words import idmap_faults


class Asked(NamedTuple):
    """Uids of which it matters whether somebody on this machine can have them.

    `heirs` would become root: a range of subordinate ids counts too. The others are `accounts`.
    """

    heirs: frozenset[int]
    accounts: frozenset[int]


class _Stake(NamedTuple):
    """Two uids that are exchanged, as the source's own mount shows them, in a writable mount."""

    owner: int
    user: int
    is_root: bool
    """One of the two is root."""


def asked(
    desired: Sequence[Desired], record: Iterable[Managed], observed: Observed, manifest: str
) -> Asked:
    """Which uids somebody has to be asked about, before `judge` can be."""
    claimed = _claimed(desired)
    stakes = _stakes(claimed).values()
    heirs = {stake.owner for stake in stakes if stake.is_root and stake.user == ROOT}
    accounts = {stake.owner for stake in stakes if not stake.is_root and stake.user != ROOT}
    for managed, _, each in _doubtful(claimed, record, observed, manifest, {}):
        if each.volume.user:
            heirs.add(managed.owner.uid)
    return Asked(frozenset(heirs - {ROOT}), frozenset(accounts - {ROOT}))


def judge(
    desired: Sequence[Desired],
    record: Iterable[Managed],
    observed: Observed,
    leaving: Sequence[Managed],
    manifest: str,
    done: Mapping[str, Fault | None],
    *,
    waits: bool,
) -> Judgement:
    """Which swaps may not be, where these managed mounts are `leaving`, and these volumes `done`.

    `waits` False: what could be waited for counts as what stays.
    """
    claimed = _claimed(desired)
    nobodys = observed.nobodys
    stakes = {
        name: stake
        for name, stake in _stakes(claimed).items()
        if stake.owner not in nobodys.uids or (stake.is_root and stake.user != ROOT)
    }
    record = [*record]
    if not stakes and not any(_doubtful(claimed, record, observed, manifest, {})):
        return Judgement()
    sights = Sights(claimed, record, observed, leaving, manifest, done)
    refused: dict[str, Fault] = {}
    put_off: dict[str, tuple[str, ...]] = {}
    notes: dict[str, str] = {}
    for name, stake in stakes.items():
        mount = claimed[name]
        assert isinstance(mount, DesiredMount)
        places, until = sights.over(mount.views, name, waits=waits)
        if not stake.is_root:
            if places:
                notes[name] = idmap_faults.accounts_shared(stake.owner, stake.user, places)
        elif places:
            trouble = nobodys.trouble if stake.user == ROOT else ""
            other = stake.owner or stake.user
            refused[name] = idmap_faults.root_owned(other, mount.owner, places, trouble)
        elif until:
            put_off[name] = until
    exposed = {
        managed.id: fault
        for managed, mount, each in _doubtful(claimed, record, observed, manifest, refused)
        if (fault := _why_exposed(managed, mount, each, observed, sights, refused))
    }
    return Judgement(refused, put_off, notes, exposed)


def guarded(mount: DesiredMount) -> frozenset[int]:
    """The devices of which any mount may matter to this one, for it gives somebody root's uid."""
    swap = _swap(mount)
    has_root = swap.is_root if swap else bool(mount.idmap and _swaps_root(mount.idmap))
    return frozenset(view.device for view in mount.views) if has_root else frozenset()


def _claimed(desired: Sequence[Desired]) -> dict[str, Desired]:
    """Volumes by name, without those whose target is another's."""
    targets: dict[str, Desired] = {}
    for each in desired:
        targets.setdefault(each.target, each)
    return {each.volume.name: each for each in targets.values()}


# what is desired


def _stakes(claimed: Mapping[str, Desired]) -> dict[str, _Stake]:
    found: dict[str, _Stake] = {}
    inherited: list[DesiredMount] = []
    for name, mount in claimed.items():
        if not isinstance(mount, DesiredMount):
            continue
        if mount.choice.idmap is None:
            if mount.source_idmap and _swaps_root(mount.source_idmap) and _is_writable(mount):
                inherited.append(mount)
        elif stake := _stake(mount):
            found[name] = stake
    if inherited:
        by_target = {each.target: each for each in claimed.values()}
        for mount in inherited:
            if stake := _inherited_stake(mount, by_target):
                found[mount.volume.name] = stake
    return found


def _stake(mount: DesiredMount) -> _Stake | None:
    stake = _swap(mount)
    if stake is None or (stake.is_root and mount.volume.owner) or not _is_writable(mount):
        return None
    return stake


def _swap(mount: DesiredMount) -> _Stake | None:
    if mount.choice.idmap is None or mount.choice.rule != "swap" or mount.user is None:
        return None
    owner, user = (mount.volume.owner or mount.seen).uid, mount.user.uid
    if owner == user:
        return None
    # who becomes root by the source's own mount, and who by one that shows ids as they are stored
    is_root = ROOT in (owner, user)
    if mount.source_idmap and not is_root:
        is_root = shown_owner(Ids(ROOT, ROOT), mount.source_idmap).uid in (owner, user)
    return _Stake(owner, user, is_root)


def _inherited_stake(mount: DesiredMount, by_target: Mapping[str, Desired]) -> _Stake | None:
    """A plain clone of a mount of ours has its swap, and what the manifest says of that counts."""
    maker = _maker(mount.volume, mount.source, by_target)
    if maker is None or maker.volume.owner or not _may_swap(maker.volume):
        return None
    if isinstance(maker, DesiredMount) and maker.user:
        return _Stake(maker.seen.uid, maker.user.uid, is_root=True)
    assert mount.source_idmap, "it swaps root"
    other = seen_as(mount.source_idmap.uids, ROOT)
    return _Stake(ROOT, other or ROOT, is_root=True)


def _maker(volume: Volume, source: str, by_target: Mapping[str, Desired]) -> Desired | None:
    """The volume that a source lies in, and that doesn't inherit its idmapping from yet another."""
    passed = {volume.name}
    while volume.type is None:
        above = (by_target[each] for each in (source, *folders_above(source)) if each in by_target)
        maker = next((each for each in above if each.volume.name not in passed), None)
        if maker is None or _may_swap(maker.volume):
            return maker
        volume = maker.volume
        source = maker.source if isinstance(maker, DesiredMount) else volume.source
        passed.add(volume.name)
    return None


def _may_swap(volume: Volume) -> bool:
    return volume.user is not None and volume.idmap in ("auto", "always")


def _swaps_root(idmap: Idmapping) -> bool:
    """Whether it exchanges root's uid with another, as ours do; not one that shifts ids."""
    other = seen_as(idmap.uids, ROOT)
    return other not in (None, ROOT) and seen_as(idmap.uids, other or ROOT) == ROOT


def _is_writable(mount: DesiredMount) -> bool:
    return not all(view.is_read_only for view in mount.views)


# what is mounted


def _doubtful(
    claimed: Mapping[str, Desired],
    record: Iterable[Managed],
    observed: Observed,
    manifest: str,
    refused: Mapping[str, Fault],
) -> Iterator[tuple[Managed, ObservedMount, Desired]]:
    """Managed mounts with root's swap, for which no volume vouches and which no action changes."""
    bad = {
        name: each
        for name, each in claimed.items()
        if (name in refused or not isinstance(each, DesiredMount)) and not each.volume.owner
    }
    if not bad:
        return
    by_target = {each.target: each for each in claimed.values()}
    for managed in record:
        if managed.manifest != manifest:
            continue
        each = by_target.get(managed.target) or claimed.get(managed.volume)
        if each is None or each.volume.name not in bad:
            continue
        mount = observed.mounts.get(managed.id)
        if mount is None or not is_same(managed, mount):
            continue
        idmap = mount.idmap if observed.tells_idmaps else managed.idmap
        is_refused = (
            each.volume.name in refused and isinstance(each, DesiredMount) and idmap == each.idmap
        )
        if is_refused or (idmap and _swaps_root(idmap) and _is_answerable(each, by_target)):
            yield managed, mount, each


def _is_answerable(each: Desired, by_target: Mapping[str, Desired]) -> bool:
    """Whether what its mount has is a swap that the manifest means, and doesn't vouch for."""
    if _may_swap(each.volume):
        return True
    maker = _maker(each.volume, each.volume.source, by_target)
    return maker is not None and not maker.volume.owner and _may_swap(maker.volume)


def _why_exposed(
    managed: Managed,
    mount: ObservedMount,
    each: Desired,
    observed: Observed,
    sights: "Sights",
    refused: Mapping[str, Fault],
) -> Fault | None:
    """Why a mount that is there has to come off."""
    mounts = [mount, *(observed.mounts[it] for it in managed.submounts if it in observed.mounts)]
    views = [
        View(it.device, root_of(it), it.flags.read_only or it.is_fs_read_only) for it in mounts
    ]
    if all(view.is_read_only for view in views):
        return None
    idmap = mount.idmap if observed.tells_idmaps else managed.idmap
    assert idmap, "it is a swap"
    owner = managed.owner.uid
    is_roots = bool(each.volume.user) and owner != ROOT and seen_as(idmap.uids, owner) == ROOT
    if is_roots and owner in observed.nobodys.uids:
        return None
    places, _ = sights.over(views, each.volume.name, waits=True)
    if not places:
        return None
    if fault := refused.get(each.volume.name):
        return fault
    other = seen_as(idmap.uids, ROOT) or owner
    trouble = observed.nobodys.trouble if is_roots else ""
    return idmap_faults.root_owned(other, managed.owner, places, trouble)
