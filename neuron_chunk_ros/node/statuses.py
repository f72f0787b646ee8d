# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What diagnostics say about each part of the node, and how bad it is."""

from dataclasses import dataclass, field
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticStatus

from neuron_chunk_ros.node.frames import FramesReport
from neuron_chunk_ros.node.tally import Counts, Recent

OK, WARN = DiagnosticStatus.OK, DiagnosticStatus.WARN
ERROR, STALE = DiagnosticStatus.ERROR, DiagnosticStatus.STALE
MB = 1e6
# Reads are slow when they take this many times what the profile says; judged where that is this
# long [s]: reads of a few microseconds wait for the processor rather than for the storage.
SLOW_FACTOR, SLOW_SECONDS = 1.5, 0.5


@dataclass(frozen=True)
class Status:
    """A REP-107 level, one line, and the values behind it."""

    level: bytes
    message: str
    values: dict[str, object] = field(default_factory=dict)


def storage(counts: Counts, session, direct_wanted: str) -> Status:
    """ERROR from a failed read until the next good answer.

    WARN when reads are buffered unasked; when no measured profile of the storage is in use, or
    one that was measured with other reads; when reads take much longer than the profile says.

    :param session: tells its back end, whether reads are direct, what it fell back from, and its
        storage profile.
    :param direct_wanted: the direct_io parameter.
    """
    profile, recent = session.profile, counts.recent
    values = {
        'back end': session.backend,
        'direct I/O': 'yes' if session.direct_io else 'no',
        'notes': '; '.join(session.notes) or 'none',
        'profile': ' '.join((profile.source, str(profile.about.get('date', '')))).strip(),
        'read in all (MB)': f'{counts.bytes_read / MB:.1f}',
        'read for the last answer (MB)': f'{counts.last_bytes_read / MB:.2f}',
        'last read rate (MB/s)': _rate(counts.last_bytes_read / MB, counts.last_read_seconds),
        'recent read time / profile': (
            f'{_slowness(recent):.2f}' if recent.profile_seconds > 0 else 'none yet'),
        'last read error': counts.read_error or 'none',
    }
    if counts.read_error:
        return Status(ERROR, f'read error: {counts.read_error}', values)
    warnings = []
    if not session.direct_io and direct_wanted != 'off':
        warnings.append('buffered reads: the page cache takes memory and hides what the storage '
                        'does')
    doubt = session.profile_note or _other_reads(session)
    if doubt:
        warnings.append(doubt)
    elif recent.profile_seconds >= SLOW_SECONDS and _slowness(recent) > SLOW_FACTOR:
        warnings.append(f'reads take {_slowness(recent):.1f} times as long as the storage '
                        'profile says: the device is busy, throttled, or was measured when it '
                        'was faster')
    if warnings:
        return Status(WARN, f'{session.backend}, {"; ".join(warnings)}', values)
    how = 'direct I/O' if session.direct_io else 'buffered reads as asked'
    return Status(OK, f'{session.backend}, {how}', values)


def _slowness(recent: Recent) -> float:
    return recent.read_seconds / recent.profile_seconds if recent.profile_seconds > 0 else 0.0


def _other_reads(session) -> str:
    """Say so where the profile was measured for another kind of reads than the session's."""
    about = session.profile.about
    theirs = about.get('backend', session.backend), bool(about.get('direct_io', True))
    if theirs == (session.backend, session.direct_io):
        return ''
    options = f'--backend {session.backend}' + ('' if session.direct_io else ' --buffered')
    return (f'the storage profile was measured with {_kind(*theirs)}, reads go by '
            f'{_kind(session.backend, session.direct_io)}: measure it again with {options}')


def _kind(backend: str, direct: bool) -> str:
    return f'{backend} {"direct" if direct else "buffered"}'


def model(counts: Counts, load: tuple[bool, int], queue_limit: int, about: dict) -> Status:
    """ERROR from an unforeseen failure until the next good answer; WARN when the queue is full.

    :param load: whether a question is being answered, and how many wait.
    :param about: fixed facts, such as the model's name and the selection policy.
    """
    running, waiting = load
    values = {
        **about, 'answered': counts.answered, 'refused': counts.refused, 'failed': counts.failed,
        'waiting': waiting,
        'last answer (s)': f'{counts.last_seconds:.3f}',
        'last answer (tokens/s)': _rate(counts.last_tokens, counts.last_seconds),
        'last error': counts.model_error or 'none',
    }
    if counts.model_error:
        return Status(ERROR, f'last question failed: {counts.model_error}', values)
    if waiting >= queue_limit:
        return Status(WARN, f'overloaded: {waiting} questions wait, more are refused', values)
    return Status(OK, f'answering, {waiting} waiting' if running else 'idle', values)


def frames(report: FramesReport, timeout: float) -> Status:
    """WARN before the first frame or when the last one can't be converted; STALE when old."""
    values = {
        'topic': report.topic, 'publishers': report.publishers, 'received': report.received,
        'rate (1/s)': f'{report.rate:.1f}',
        'age (s)': 'none yet' if report.age is None else f'{report.age:.2f}',
        'newest': report.description or 'none yet',
        'conversion errors': report.conversion_errors,
        'last conversion error': report.last_conversion_error or 'none',
    }
    if report.age is None:
        return Status(WARN, f'no frame has come on {report.topic} '
                            f'({report.publishers} publishers)', values)
    if report.age > timeout:
        return Status(STALE, f'newest frame is {report.age:.1f} s old', values)
    if report.last_conversion_error:
        return Status(WARN, report.last_conversion_error, values)
    return Status(OK, f'{report.rate:.1f} frames/s', values)


def memory(parts: dict[str, float], budget: int) -> Status:
    """WARN when what the model holds exceeds the budget, which covers neither Python nor torch.

    :param parts: MiB by part, as the session tells them; 'total' is what is held.
    :param budget: MiB; 0 for none.
    """
    total = parts['total']
    values = {f'{name} (MiB)': f'{size:.1f}' for name, size in parts.items()}
    values['budget (MiB)'] = budget or 'none'
    values.update(_process_memory())
    if budget and total > budget:
        return Status(WARN, f'{total:.0f} MiB held, {budget} MiB allowed', values)
    allowed = f' of {budget} MiB allowed' if budget else ''
    return Status(OK, f'{total:.0f} MiB held{allowed}', values)


def _process_memory() -> dict[str, str]:
    """Resident size of the whole process, Python and its libraries included."""
    names = {'VmRSS': 'process now (MiB)', 'VmHWM': 'process peak (MiB)'}
    found = {}
    for line in Path('/proc/self/status').read_text().splitlines():
        key, _, rest = line.partition(':')
        if key in names:
            found[names[key]] = f'{int(rest.split()[0]) / 1024:.1f}'
    return found


def _rate(amount: float, seconds: float) -> str:
    return f'{amount / seconds:.1f}' if seconds > 0 else 'none yet'
