# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Temperatures, read from a tree of files like the kernel's."""

import os
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_chunk_ros.node.diagnostics import ERROR, OK, WARN, thermal
from neuron_chunk_ros.node.diagnostics.thresholds import BADNESS

LIMITS = SimpleNamespace(temperature_warn=85.0, temperature_error=95.0,
                         nvme_temperature_warn=70.0, nvme_temperature_error=80.0)
OFF = SimpleNamespace(temperature_warn=0.0, temperature_error=0.0,
                      nvme_temperature_warn=0.0, nvme_temperature_error=0.0)


@pytest.fixture
def machine(tmp_path):
    """A machine with sensors to add; its status by `machine.status()`."""
    return Machine(tmp_path)


class Machine:
    def __init__(self, root):
        self.root = root

    def zone(self, number, name, degrees):
        folder = self.root / f'class/thermal/thermal_zone{number}'
        write(folder, type=name, temp=f'{degrees * 1000:.0f}')
        return folder

    def drive(self, number, degrees, name='nvme', **limits):
        # As the kernel has it: class/ holds links, and the drive is two of them away.
        drive = self.root / f'devices/pci0000:00/nvme/nvme{number}'
        folder = drive / f'hwmon{number + 3}'
        write(folder, name=name, temp1_input=f'{degrees * 1000:.0f}',
              **{f'temp1_{k}': f'{v * 1000:.0f}' for k, v in limits.items()})
        (folder / 'device').symlink_to(drive)
        chips = self.root / 'class/hwmon'
        chips.mkdir(parents=True, exist_ok=True)
        (chips / folder.name).symlink_to(folder)
        return folder

    def status(self, limits=LIMITS):
        return thermal.status(limits, self.root)


def write(folder, **files):
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(f'{text}\n')


def orin(machine, cpu=48.5):
    for number, (name, degrees) in enumerate({
            'cpu-thermal': cpu, 'gpu-thermal': 45.0, 'cv0-thermal': -256.0, 'soc0-thermal': 46.0,
            'soc1-thermal': 44.0, 'tj-thermal': cpu}.items()):
        machine.zone(number, name, degrees)


def test_a_machine_that_tells_nothing(machine):
    assert machine.status() == thermal.Status(OK, 'no sensors on this machine')
    (machine.root / 'class/thermal').mkdir(parents=True)
    (machine.root / 'class/hwmon').mkdir()
    assert machine.status().message == 'no sensors on this machine'


def test_this_machine_tells_something():
    status = thermal.status(LIMITS)
    assert status.level in (OK, WARN, ERROR) and status.message


def test_a_jetson_with_a_drive(machine):
    orin(machine)
    machine.drive(0, 41.85, max=81.85, crit=84.85)
    status = machine.status()
    assert (status.level, status.message) == (OK, 'cpu-thermal 48 °C, NVMe nvme0 42 °C')
    assert status.values == {
        'cpu-thermal (°C)': '48.5', 'gpu-thermal (°C)': '45.0', 'cv0-thermal (°C)': 'off',
        'soc0-thermal (°C)': '46.0', 'soc1-thermal (°C)': '44.0', 'tj-thermal (°C)': '48.5',
        'NVMe nvme0 (°C)': '41.9', "NVMe nvme0's own limits (°C)": '82, 85'}


@pytest.mark.parametrize('name', [
    'cpu-thermal', 'CPU-therm', 'GPU-therm', 'gpu_thermal', 'soc-thermal', 'soc2-thermal',
    'cv1-thermal', 'tj-thermal', 'cpu0-thermal', 'bigcore0-thermal', 'bcm2835_thermal',
    'x86_pkg_temp'])
@pytest.mark.parametrize('degrees, level', [
    (85.0, OK), (85.1, WARN), (95.0, WARN), (95.1, ERROR)])
def test_levels_of_the_chip(machine, name, degrees, level):
    machine.zone(0, name, degrees)
    status = machine.status()
    assert status.level == level
    assert machine.status(OFF).level == OK
    if level == WARN:
        assert status.message.startswith(
            f'{name} is at {degrees:.1f} °C, above temperature_warn 85: cool it')


@pytest.mark.parametrize('degrees, level', [
    (70.0, OK), (70.1, WARN), (80.0, WARN), (80.1, ERROR)])
def test_levels_of_a_drive(machine, degrees, level):
    orin(machine)
    machine.drive(0, 30.0)
    machine.drive(1, degrees)
    status = machine.status()
    assert status.level == level
    assert machine.status(OFF).level == OK
    if level == ERROR:
        assert status.message.startswith('NVMe nvme1 is at 80.1 °C, above nvme_temperature_error')


def test_both_are_told_the_worse_first(machine):
    orin(machine, cpu=90.0)
    machine.drive(0, 99.0)
    status = machine.status()
    assert status.level == ERROR
    assert status.message.index('NVMe nvme0') < status.message.index('cpu-thermal')


@pytest.mark.parametrize('name', ['PMIC-Die', 'Tboard_tegra', 'iwlwifi_1', 'thermal-fan-est'])
def test_other_sensors_are_told_and_not_judged(machine, name):
    machine.zone(0, name, 100.0)
    status = machine.status()
    assert status.level == OK and status.values == {f'{name} (°C)': '100.0'}
    assert status.message == 'none of 1 sensors tells how hot the chip is'


def test_a_block_that_is_off_answers_eagain(machine):
    orin(machine)
    temp = machine.zone(6, 'cv1-thermal', 0.0) / 'temp'
    temp.unlink()
    os.mkfifo(temp)
    keep = os.open(temp, os.O_RDWR | os.O_NONBLOCK)  # an open pipe without data: EAGAIN
    try:
        with pytest.raises(BlockingIOError):
            os.read(keep, 1)
        status = machine.status()
    finally:
        os.close(keep)
    assert status.level == OK and status.values['cv1-thermal (°C)'] == 'off'


def test_what_cannot_be_read_is_off(machine):
    (machine.zone(0, 'cpu-thermal', 50.0) / 'temp').unlink()
    folder = machine.zone(1, 'gpu-thermal', 50.0) / 'temp'
    folder.unlink()
    folder.mkdir()
    for number, text in enumerate(('', 'hot', '\xff', '1e3', '9' * 30), 2):
        (machine.zone(number, f'soc{number}-thermal', 50.0) / 'temp').write_text(text)
    (machine.zone(7, 'tj-thermal', 50.0) / 'type').unlink()
    status = machine.status()
    assert status.level == OK
    assert set(status.values.values()) == {'off', '50.0'}
    assert status.values['thermal_zone7 (°C)'] == '50.0', 'without a type it goes by its folder'


def test_limits_a_drive_does_not_have(machine):
    machine.drive(0, 40.0, max=65261.85, crit=84.0)
    assert machine.status().values["NVMe nvme0's own limits (°C)"] == '84'
    machine.drive(1, 40.0)
    assert "NVMe nvme1's own limits (°C)" not in machine.status().values


def test_other_chips_are_left_alone(machine):
    machine.drive(0, 99.0, name='coretemp')
    assert machine.status().message == 'no sensors on this machine'


def test_sensors_of_one_name_are_kept_apart_in_order(machine):
    for number in (10, 2, 1):
        machine.zone(number, 'cpu-thermal', float(number))
    (machine.root / 'class/thermal/cooling_device0').mkdir()
    assert machine.status().values == {
        'cpu-thermal (°C)': '1.0', 'cpu-thermal 2 (°C)': '2.0', 'cpu-thermal 3 (°C)': '10.0'}


LIMIT = st.one_of(st.just(0.0), st.floats(1.0, 120.0))


@given(st.lists(st.integers(-50, 130), min_size=2, max_size=2).map(sorted), LIMIT, LIMIT)
def test_hotter_is_never_better(tmp_path_factory, degrees, warn, error):
    limits = SimpleNamespace(temperature_warn=warn, temperature_error=error,
                             nvme_temperature_warn=warn, nvme_temperature_error=error)
    levels = []
    for one in degrees:
        machine = Machine(tmp_path_factory.mktemp('sys'))
        machine.zone(0, 'cpu-thermal', one)
        machine.drive(0, one)
        levels.append(BADNESS.index(machine.status(limits).level))
    assert levels[0] <= levels[1]
