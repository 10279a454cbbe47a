"""Moves that stand beside the lease table: the questions of reconcile, and the loading of a cold store.

A store without an epoch is cold. One process at a time has the turn to load it, marked by a fence: it wipes what is
left, writes the ledger's sums and the rids counted in them, and opens the epoch. A fence that is not the latest one
changes nothing, so a loader that was thought dead does no harm when it wakes up.
"""

from __future__ import annotations

from llmguard.core.leases import HORIZON_MS, State, Status, Tombstone
from llmguard.core.moves import ROLLING_PARTS, Again, Answer, Begin, Charge, Done, Known, Load, Open, Turn


def known(state: State, move: Known, now: int) -> Answer:
    gone = []
    for rid in move.rids:
        record = state.record(rid, now)
        if record is None or record.status is not Status.SETTLED:
            gone.append(rid)
    return Done(now, False, gone=tuple(gone))


def begin(state: State, move: Begin, now: int) -> Answer:
    if now < state.turn_until or (state.epoch and not move.rebuild):
        return Turn(now, 0)
    state.fence += 1
    state.turn_ms = move.lease_ms
    state.turn_until = now + move.lease_ms
    state.epoch = 0
    state.wipe()
    return Turn(now, state.fence)


def load(state: State, move: Load, now: int) -> Answer:
    if move.fence == 0:
        return _create(state, move, now) if state.epoch else Again(now, "cold")
    if state.epoch or move.fence != state.fence:
        return Again(now, "gone")
    state.turn_until = now + state.turn_ms
    for charge in move.sums:
        balance = state.open(charge.name, charge.window_end, charge.rolling_ms, now)
        if balance:
            balance.load(charge_slot(charge), charge.amount)
            balance.told_up_to = balance.settled  # the process that is gone has told of these
    for counted in move.counted:
        amounts = tuple([charge.amount for charge in counted.charges])
        state.keep(counted.rid, Tombstone(Status.SETTLED, 0, counted.rev, amounts), now + HORIZON_MS)
    return Done(now, True)


def _create(state: State, move: Load, now: int) -> Answer:
    missing = {charge.name for charge in move.sums if state.balance(charge.name, now) is None}
    for charge in move.sums:
        if charge.name in missing:
            balance = state.open(charge.name, charge.window_end, charge.rolling_ms, now)
            if balance:
                balance.load(charge_slot(charge), charge.amount)
    return Done(now, bool(missing))


def open_epoch(state: State, move: Open, now: int) -> Answer:
    if move.fence != state.fence:
        return Again(now, "gone")
    if state.epoch:
        return Done(now, False)
    state.epoch = now + move.grace_ms
    state.turn_until = 0
    state.seq = max(state.seq, now * 1_000)  # above anything seen from a store that was flushed
    return Done(now, True)


def charge_slot(charge: Charge) -> int:
    """The sub-bucket that a charge to a rolling window belongs to; 0 where there are none."""
    return charge.window_end // (charge.rolling_ms // ROLLING_PARTS) - 1 if charge.rolling_ms else 0
