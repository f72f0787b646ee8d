# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What diagnostics say about each part of the node. Pure functions: values in, a status out.

`limits` is the node's settings, or anything with the thresholds among its attributes.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from neuron_chunk_ros.node.diagnostics.thresholds import (
    ERROR,
    EVENT_SECONDS,
    OK,
    STALE,
    WARN,
    Findings,
    Status,
)
from neuron_chunk_ros.node.process_memory import resident_mib
from neuron_chunk_ros.node.tally import SLOW_SECONDS, Counts, Event, Recent

if TYPE_CHECKING:
    from neuron_chunk_ros.node.cameras import FrameReport
    from neuron_chunk_ros.node.worker import Load

MB = 1e6
# Callbacks that wait this long keep a robot from noticing what it should [s].
EXECUTOR_SLOW = 0.5
# A read that keeps everybody waiting for this long is no ordinary one [s].
HANGING_SECONDS = 1.0


def storage(counts: Counts, session, direct_wanted: str, limits) -> Status:
    """ERROR from a failed read until the next good one, while one doesn't come back, when slow.

    Slow are reads that take far longer than the profile says.

    WARN when reads are buffered unasked; when no measured profile of the storage is in use, or
    one that was measured with other reads; when reads take much longer than the profile says.

    :param session: tells its back end, whether reads are direct, what it fell back from, and its
        storage profile.
    :param direct_wanted: the direct_io parameter.
    """
    profile, recent = session.profile, counts.recent
    slowness = _slowness(recent)
    values = {
        'back end': session.backend,
        'direct I/O': 'yes' if session.direct_io else 'no',
        'notes': '; '.join(session.notes) or 'none',
        'profile': ' '.join((profile.source, str(profile.about.get('date', '')))).strip(),
        'read in all (MB)': f'{counts.bytes_read / MB:.1f}',
        'held, not read, in all (MB)': f'{counts.bytes_held / MB:.1f}',
        'hit share of what is held': _share(counts.bytes_held,
                                            counts.bytes_held + counts.bytes_read),
        'rows read ahead, wanted': _share(counts.rows_ahead_wanted, counts.rows_ahead),
        'read for the last answer (MB)': f'{counts.last_bytes_read / MB:.2f}',
        'last read rate (MB/s)': _rate(counts.last_bytes_read / MB, counts.last_read_seconds),
        'recent read rate (MB/s)': _rate(recent.bytes_read / MB, recent.read_seconds),
        'read rate by the profile (MB/s)': _rate(recent.bytes_read / MB, recent.profile_seconds),
        'recent read time / profile': (
            f'{slowness:.2f}' if recent.profile_seconds > 0 else 'none yet'),
        'last read error': counts.read_error or 'none',
    }
    if (waited := session.read_under_way()) >= HANGING_SECONDS:
        return Status(ERROR, f'a read has been under way for {waited:.0f} s', values)
    if counts.read_error:
        return Status(ERROR, f'read error: {counts.read_error}', values)
    found = Findings()
    if not session.direct_io and direct_wanted != 'off':
        found.add(WARN, 'buffered reads: the page cache takes memory and hides what the storage '
                        'does')
    doubt = session.profile_note or _other_reads(session)
    if doubt:
        found.add(WARN, doubt)
    elif recent.profile_seconds >= SLOW_SECONDS:
        found.above(
            slowness, f'reads take {slowness:.1f} times as long as the storage profile says',
            limits, (ERROR, 'slow_reads_error'), (WARN, 'slow_reads_warn'),
            cure=': the device is busy, throttled, or was measured when it was faster')
    how = 'direct I/O' if session.direct_io else 'buffered reads as asked'
    return found.status(f'{session.backend}, {how}', values, prefix=f'{session.backend}, ')


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


def model(counts: Counts, load: Load, about: dict[str, object], limits) -> Status:
    """ERROR from an unforeseen failure until the next good work, and for very late answers.

    WARN while the queue is full and when answers are late; for a while after a question was
    refused because of the queue or missed its deadline.

    :param about: fixed facts, such as the model's name, the selection policy and sparsity.
    """
    latency = counts.latency
    values = {
        **about, 'answered': counts.answered, 'frames appended': counts.appended,
        'refused': counts.refused, 'failed': counts.failed, 'deadlines missed': counts.missed,
        'waiting': load.waiting, 'queue limit': load.limit,
        'last answer (s)': f'{counts.last_seconds:.3f}',
        'last answer (tokens/s)': _figure(counts.last_tokens_per_second, '.1f'),
        'recent answers (tokens/s)': _figure(counts.tokens_per_second, '.1f'),
        **{f'answers, {name} (s)': f'{getattr(latency, key):.3f}' if latency else 'none yet'
           for name, key in (('median', 'p50'), ('95th percentile', 'p95'),
                             ('longest', 'longest'))},
        'last frame appended (s)': _figure(counts.last_append_seconds, '.3f'),
        'last refusal': _told(counts.last_refusal),
        'last missed deadline': _told(counts.last_miss),
        'steps beyond deadline_ms': counts.late_steps,
        'attention kept': f'{counts.last_attention:.0%}',
        'coarse': counts.coarse, 'drafts right': _share(counts.accepted, counts.drafted),
        'last error': counts.model_error or 'none',
    }
    if counts.model_error:
        return Status(ERROR, f'model error: {counts.model_error}', values)
    found = Findings()
    if about.get('attention') == 'blindsight' and about.get('head classes') == 'none':
        found.add(WARN, 'attention is blindsight, but the bundle has no classes of heads, so all '
                        'look at everything: run neuron-chunk attention characterize')
    if load.waiting >= load.limit:
        found.add(WARN, f'overloaded: {load.waiting} questions wait, more are refused '
                        '(queue_limit)')
    elif _fresh(counts.last_overload):
        found.add(WARN, f'overloaded: {_told(counts.last_overload)}')
    if _fresh(counts.last_miss):
        found.add(WARN, f'deadline missed: {_told(counts.last_miss)}')
    if _fresh(counts.last_late_step):
        found.add(WARN, f'deadline_ms missed: {_told(counts.last_late_step)}')
    if latency:
        found.above(latency.p95, f'answers take {latency.p95:.2f} s (95th percentile)', limits,
                    (ERROR, 'latency_error'), (WARN, 'latency_warn'))
    return found.status(f'answering, {load.waiting} waiting' if load.running else 'idle', values)


def _share(part: int, whole: int) -> str:
    return f'{part / whole:.0%}' if whole else 'none yet'


def _fresh(event: Event | None) -> bool:
    return event is not None and event.age < EVENT_SECONDS


def _told(event: Event | None) -> str:
    return f'{event.reason} ({event.age:.0f} s ago)' if event else 'none'


def frames(report: FrameReport, active: bool, limits) -> Status:
    """WARN before the first frame and for too few; STALE, then ERROR when the newest is old.

    WARN also while the frame looked at last could not be converted, and for a while after.

    :param active: whether frames are taken at all; OK where not.
    """
    age, bad_age = report.age, report.last_bad_age
    values = {
        'topic': report.topic, 'publishers': report.publishers, 'received': report.received,
        'rate (1/s)': f'{report.rate:.1f}',
        'age (s)': 'none yet' if age is None else f'{age:.2f}',
        'newest': report.description or 'none yet',
        'dropped': report.dropped,
        'conversion errors': report.bad,
        'last conversion error': report.last_bad or 'none',
    }
    if not active:
        return Status(OK, 'inactive: no frames are taken', values)
    if age is None:
        cure = report.mismatch or 'start the camera, or remap the topic'
        return Status(WARN, f'no frame has come on {report.topic} ({report.publishers} '
                            f'publishers): {cure}', values)
    found = Findings()
    alone = f' and {report.mismatch}' if report.mismatch else (
        '' if report.publishers else f' and nobody publishes on {report.topic}')
    found.above(age, f'newest frame is {age:.1f} s old{alone}', limits,
                (ERROR, 'frame_timeout_error'), (STALE, 'frame_timeout'))
    if report.last_bad:
        found.add(WARN, report.last_bad)
    elif bad_age is not None and bad_age < EVENT_SECONDS:
        found.add(WARN, f'a frame could not be converted {bad_age:.0f} s ago')
    if report.rate < limits.frame_rate_warn:
        found.add(WARN, f'{report.rate:.1f} frames/s, below frame_rate_warn '
                        f'{limits.frame_rate_warn:g}')
    return found.status(f'{report.rate:.1f} frames/s', values)


def memory(parts: dict[str, float], budget: int, limits, requests: int = 0) -> Status:
    """WARN near the budget, ERROR above it; the budget covers neither Python nor torch.

    Heads fill what the budget leaves, so being near it is said of what there is beside them.

    :param parts: MiB by part, as the session tells them; 'total' is what is held.
    :param budget: MiB; 0 for none.
    :param requests: bytes that requests and frames may take beside it.
    """
    total = parts['total']
    needed = total - parts.get('heads', 0.0)
    values = {f'{name} (MiB)': f'{size:.1f}' for name, size in parts.items()}
    values['budget (MiB)'] = budget or 'none'
    values['requests, at most (MiB)'] = f'{requests / (1 << 20):.1f}'
    for name, size in zip(('now', 'peak'), resident_mib(), strict=True):
        values[f'process {name} (MiB)'] = f'{size:.1f}'
    held = f'{total:.0f} MiB held'
    if not budget:
        return Status(OK, held, values)
    if total > budget:
        return Status(ERROR, f'{held}, {budget} MiB allowed (memory_budget_mb)', values)
    if 0 < limits.memory_warn * budget < needed:
        return Status(WARN, f'{held}, {needed / budget:.0%} of the {budget} MiB allowed, above '
                            f'memory_warn {limits.memory_warn:g}', values)
    return Status(OK, f'{held} of {budget} MiB allowed', values)


def lifecycle(state: str, note: str = '', failure: str = '') -> Status:
    """OK in every state that was asked for, ERROR where the last transition failed.

    :param state: 'unconfigured', 'loading', 'inactive', 'active'.
    :param note: what that means now, such as '45 %' or 'not answering'.
    :param failure: why the last transition failed; empty once one went well.
    """
    values = {'state': state, 'note': note or 'none', 'last failure': failure or 'none'}
    if failure:
        return Status(ERROR, f'{state}: {failure}', values)
    return Status(OK, f'{state}: {note}' if note else state, values)


def setup(unknown: Collection[str], namesakes: int, name: str) -> Status:
    """WARN for parameters that mean nothing, and while another node has this one's name.

    :param unknown: a line for each such parameter.
    :param namesakes: how many other nodes have the name.
    """
    values = {'unknown parameters': len(unknown), 'nodes of the same name': namesakes}
    found = Findings()
    if namesakes:
        found.add(WARN, namesake_line(name))
    for line in unknown:
        found.add(WARN, line)
    return found.status('as it should be', values)


def namesake_line(name: str) -> str:
    """Return what is said of another node with a name."""
    return (f'another node is called {name}, and questions may go to either: start one with '
            '-r __node:=NAME (one that was killed is listed for some seconds more)')


def executor(delay: float) -> Status:
    """WARN when callbacks had to wait long.

    :param delay: the longest wait lately [s].
    """
    values = {'executor delay, longest (ms)': f'{delay * 1e3:.0f}'}
    text = f'callbacks wait up to {delay * 1e3:.0f} ms'
    if delay > EXECUTOR_SLOW:
        return Status(WARN, f'{text}, above {EXECUTOR_SLOW * 1e3:.0f} ms: the processor is '
                            'overloaded or a callback blocks', values)
    return Status(OK, text, values)


def _rate(amount: float, seconds: float) -> str:
    return f'{amount / seconds:.1f}' if seconds > 0 else 'none yet'


def _figure(value: float, form: str) -> str:
    return f'{value:{form}}' if value > 0 else 'none yet'
