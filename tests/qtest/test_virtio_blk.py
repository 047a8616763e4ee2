"""A virtio disk's requests, on an image in a file and on one that reads as zeros."""

from __future__ import annotations

import pathlib
from typing import Iterator

import pytest
from conftest import DISK_SECTORS, ON_EITHER_LOOP, SERIAL
from qtest import Machine
from virtio import (SECTOR, UNTOUCHED, Blk, BlkFeature, BlkStatus, BlkType, Buffer, Feature,
                    find_disks, ranges)

IMAGE_SECTORS = 4096


@pytest.fixture
def image(tmp_path: pathlib.Path) -> pathlib.Path:
    """Each sector says its number, over and over."""
    path = tmp_path / "disk.img"
    path.write_bytes(b"".join(sector(i) for i in range(IMAGE_SECTORS)))
    return path


def sector(number: int) -> bytes:
    return number.to_bytes(4, "little") * (SECTOR // 4)


@pytest.fixture
def file_disk(tmp_path: pathlib.Path, image: pathlib.Path) -> Iterator[Blk]:
    with Machine(tmp_path, "-blockdev", f"driver=file,node-name=f0,filename={image}",
                 "-object", "iothread,id=io0",
                 "-device", "virtio-blk-pci,id=vd0,drive=f0,num-queues=2,iothread=io0") as machine:
        [found] = find_disks(machine)
        yield found
        machine.qmp.execute("quit")
        assert machine.process.wait() == 0, machine.process.stderr


# --- Requests -----------------------------------------------------------------------------------


@ON_EITHER_LOOP
def test_the_serial_number_comes_padded_or_cut(disk: Blk) -> None:
    [queue] = disk.bring_up()
    for room in (20, 19, 4, 1, 21, 64):
        status, data = disk.do(queue, BlkType.GET_ID, room=room)
        assert status == BlkStatus.OK
        assert data == SERIAL.encode()[:room].ljust(room, b"\0")
    assert disk.do(queue, BlkType.GET_ID)[0] == BlkStatus.OK  # no room at all


@ON_EITHER_LOOP
def test_requests_at_the_edge_of_the_disk(disk: Blk) -> None:
    [queue] = disk.bring_up()
    for first, count, expected in [
            (DISK_SECTORS - 1, 1, BlkStatus.OK), (DISK_SECTORS - 1, 2, BlkStatus.IOERR),
            (DISK_SECTORS, 1, BlkStatus.IOERR), (1 << 63, 1, BlkStatus.IOERR),
            ((1 << 64) - 1, 1, BlkStatus.IOERR), ((1 << 64) - 1, 8, BlkStatus.IOERR),
            ((1 << 55) - 1, 1, BlkStatus.IOERR), (0, DISK_SECTORS, BlkStatus.OK)]:
        assert disk.do(queue, BlkType.IN, first, room=count * SECTOR)[0] == expected, first
        if count < 9:
            assert disk.do(queue, BlkType.OUT, first, bytes(count * SECTOR))[0] == expected, first


@ON_EITHER_LOOP
@pytest.mark.parametrize("size", [1, 511, 513, 1000])
def test_part_of_a_sector_is_refused(disk: Blk, size: int) -> None:
    [queue] = disk.bring_up()
    assert disk.do(queue, BlkType.IN, room=size)[0] == BlkStatus.IOERR
    assert disk.do(queue, BlkType.OUT, 0, bytes(size))[0] == BlkStatus.IOERR


@ON_EITHER_LOOP
def test_a_request_that_nobody_knows_is_unsupported(disk: Blk) -> None:
    [queue] = disk.bring_up()
    for kind in (2, 3, 5, 6, 7, 9, 10, 12, 15, 16, 99, 0x8000_0000, 0xFFFF_FFFF):
        assert disk.do(queue, kind, room=SECTOR)[0] == BlkStatus.UNSUPP, kind
        assert disk.do(queue, kind, 0, bytes(SECTOR))[0] == BlkStatus.UNSUPP, kind
        assert disk.do(queue, kind)[0] == BlkStatus.UNSUPP, kind


@ON_EITHER_LOOP
@pytest.mark.parametrize("kind", [BlkType.DISCARD, BlkType.WRITE_ZEROES])
def test_ranges_that_are_wrong_are_refused(disk: Blk, kind: BlkType) -> None:
    [queue] = disk.bring_up()
    good = (0, 8, 0)
    most = disk.config(36 if kind == BlkType.DISCARD else 48, 4)
    for segments, expected in [
            ([good], BlkStatus.OK), ([good] * 4, BlkStatus.OK),
            ([(DISK_SECTORS, 1, 0)], BlkStatus.IOERR), ([(DISK_SECTORS - 1, 2, 0)], BlkStatus.IOERR),
            ([((1 << 64) - 1, 2, 0)], BlkStatus.IOERR), ([(0, most + 1, 0)], BlkStatus.IOERR),
            ([good, (DISK_SECTORS, 8, 0)], BlkStatus.IOERR),
            ([(0, 8, 2)], BlkStatus.UNSUPP), ([(0, 8, 0x8000_0000)], BlkStatus.UNSUPP)]:
        assert disk.do(queue, kind, 0, ranges(segments))[0] == expected, segments
    unmap = disk.do(queue, kind, 0, ranges([(0, 8, 1)]))[0]
    assert unmap == (BlkStatus.UNSUPP if kind == BlkType.DISCARD else BlkStatus.OK)
    for cut in (1, 15, 17, 31):
        assert disk.do(queue, kind, 0, ranges([good] * 2)[:cut])[0] == BlkStatus.IOERR, cut
    assert disk.do(queue, BlkType.FLUSH)[0] == BlkStatus.OK


@ON_EITHER_LOOP
def test_queues_work_side_by_side_in_any_order(disk: Blk) -> None:
    queues = disk.bring_up(queues=2, size=64, msix=True)
    offered: list[dict[int, int]] = [{}, {}]
    for _ in range(16):
        for queue in queues:
            request = disk.prepare(BlkType.IN, 0, room=SECTOR)
            offered[queue.index][queue.offer(request.buffers())] = request.status
    for queue in queues:
        queue.ring()
    for queue in queues:
        while offered[queue.index]:
            head, length = queue.wait()
            assert length == SECTOR + 1
            assert disk.machine.load(offered[queue.index].pop(head), 1) == BlkStatus.OK


@ON_EITHER_LOOP
def test_the_used_length_is_what_was_written_from_the_start(disk: Blk) -> None:
    """[virtio-1.2 2.7.8.2]: so the status counts where nothing before it was left out, and a driver
    never takes a byte for the device's that is not."""
    [queue] = disk.bring_up()
    for kind, sector, room, data, expected in [
            (BlkType.IN, 0, 4 * SECTOR, b"", 4 * SECTOR + 1), (BlkType.OUT, 0, 0, bytes(SECTOR), 1),
            (BlkType.FLUSH, 0, 0, b"", 1), (BlkType.GET_ID, 0, 20, b"", 21),
            (BlkType.GET_ID, 0, 19, b"", 20), (BlkType.GET_ID, 0, 64, b"", 20),
            (BlkType.IN, DISK_SECTORS, SECTOR, b"", 0), (BlkType.IN, 0, SECTOR - 1, b"", 0),
            (BlkType.OUT, DISK_SECTORS, 0, bytes(SECTOR), 1), (99, 0, SECTOR, b"", 0),
            (99, 0, 0, b"", 1)]:
        request = disk.prepare(kind, sector, data, room)
        if room:
            disk.machine.memset(request.data, room, UNTOUCHED)
        disk.submit(queue, request)
        assert queue.wait()[1] == expected, (kind, sector, room)
        untouched = disk.machine.read(request.data, room)[min(expected, room):] if room else b""
        assert untouched == bytes([UNTOUCHED]) * len(untouched), (kind, sector, room)


@ON_EITHER_LOOP
@pytest.mark.parametrize("indirect", [False, True], ids=["direct", "indirect"])
def test_any_layout_of_the_same_request_is_the_same_request(disk: Blk, indirect: bool) -> None:
    """[virtio-1.2 2.7.4]: nothing follows from where one descriptor ends."""
    [queue] = disk.bring_up()
    for header_cuts in [(16,), (1, 15), (8, 8), (4, 4, 8), (1,) * 16]:
        for data_cuts in [(512,), (1, 511), (100, 400, 12), (511, 1)]:
            for joined in (False, True):
                request = disk.prepare(BlkType.IN, 0, room=SECTOR + 1)
                disk.machine.memset(request.data, SECTOR + 1, 0xEE)
                buffers = cut(request.header, header_cuts, False)
                # The status behind the last of the data, in one descriptor or in its own.
                last = (*data_cuts[:-1], data_cuts[-1] + 1) if joined else (*data_cuts, 1)
                buffers += cut(request.data, last, True)
                (queue.offer_indirect if indirect else queue.offer)(buffers)
                queue.ring()
                assert queue.wait()[1] == SECTOR + 1
                assert disk.machine.read(request.data, SECTOR + 1) == bytes(SECTOR + 1)


@ON_EITHER_LOOP
def test_a_header_and_its_data_may_share_a_descriptor(disk: Blk) -> None:
    [queue] = disk.bring_up()
    both = disk.ram.take(16 + SECTOR)
    status = disk.ram.take(1)
    disk.machine.store(both, BlkType.OUT, 4)
    disk.machine.store(status, 0xEE, 1)
    queue.offer([Buffer(both, 16 + SECTOR), Buffer(status, 1, True)])
    queue.ring()
    queue.wait()
    assert disk.machine.load(status, 1) == BlkStatus.OK


def cut(address: int, lengths: tuple[int, ...], device_writes: bool) -> list[Buffer]:
    buffers = []
    for length in lengths:
        buffers.append(Buffer(address, length, device_writes))
        address += length
    return buffers


# --- An image in a file -------------------------------------------------------------------------


def test_what_is_read_is_what_the_file_holds(file_disk: Blk) -> None:
    [queue] = file_disk.bring_up()
    assert file_disk.capacity == IMAGE_SECTORS
    for first, count in [(0, 1), (1, 1), (7, 9), (IMAGE_SECTORS - 1, 1), (100, 1000)]:
        assert file_disk.read_sectors(queue, first, count) == \
            b"".join(sector(i) for i in range(first, first + count))


def test_what_is_written_is_in_the_file_and_nowhere_else(
        file_disk: Blk, image: pathlib.Path) -> None:
    queues = file_disk.bring_up(queues=2)
    expected = bytearray(image.read_bytes())
    for i, (first, count) in enumerate([(3, 1), (0, 2), (50, 33), (IMAGE_SECTORS - 2, 2)]):
        data = bytes([i + 1]) * (count * SECTOR)
        file_disk.write_sectors(queues[i % 2], first, data)
        expected[first * SECTOR:(first + count) * SECTOR] = data
    assert file_disk.do(queues[0], BlkType.FLUSH)[0] == BlkStatus.OK
    assert image.read_bytes() == expected


def test_data_in_many_pieces_goes_where_it_belongs(file_disk: Blk, image: pathlib.Path) -> None:
    [queue] = file_disk.bring_up(features=Feature.EVENT_IDX)
    request = file_disk.prepare(BlkType.OUT, 5, b"".join(sector(1000 + i) for i in range(4)))
    cuts = (1, 3, 508, 512, 700, 324)
    queue.offer([Buffer(request.header, 16), *cut(request.data, cuts, False),
                 Buffer(request.status, 1, True)])
    queue.ring()
    queue.wait()
    assert file_disk.status_of(request) == BlkStatus.OK
    content = image.read_bytes()
    assert content[5 * SECTOR:9 * SECTOR] == b"".join(sector(1000 + i) for i in range(4))
    assert content[4 * SECTOR:5 * SECTOR] == sector(4)
    assert content[9 * SECTOR:10 * SECTOR] == sector(9)


def test_zeroed_sectors_read_as_zeros_and_their_neighbours_stay(file_disk: Blk) -> None:
    [queue] = file_disk.bring_up()
    status, _ = file_disk.do(queue, BlkType.WRITE_ZEROES, 0,
                             ranges([(8, 8, 0), (32, 1, 0), (64, 64, 1)]))
    assert status == BlkStatus.OK
    for number in (7, 8, 15, 16, 31, 32, 33, 63, 64, 127, 128):
        zeroed = 8 <= number < 16 or number == 32 or 64 <= number < 128
        assert file_disk.read_sectors(queue, number) == (bytes(SECTOR) if zeroed
                                                         else sector(number)), number


def test_a_disk_that_can_only_be_read_says_so_and_refuses_writes(
        tmp_path: pathlib.Path, image: pathlib.Path) -> None:
    before = image.read_bytes()
    with Machine(tmp_path, "-blockdev", f"driver=file,node-name=f0,filename={image},read-only=on",
                 "-device", "virtio-blk-pci,drive=f0") as machine:
        [disk] = find_disks(machine)
        assert disk.offered() & BlkFeature.RO
        [queue] = disk.bring_up()
        assert disk.read_sectors(queue, 9) == sector(9)
        for kind, data in [(BlkType.OUT, bytes(SECTOR)), (BlkType.WRITE_ZEROES, ranges([(0, 8, 0)])),
                           (BlkType.DISCARD, ranges([(0, 8, 0)]))]:
            assert disk.do(queue, kind, 0, data)[0] == BlkStatus.IOERR, kind
    assert image.read_bytes() == before


# --- The queues' thread -------------------------------------------------------------------------


def test_the_queues_move_to_another_iothread_while_the_driver_runs(file_disk: Blk) -> None:
    qmp = file_disk.machine.qmp
    [first, second] = file_disk.bring_up(queues=2)
    qmp.execute("object-add", **{"qom-type": "iothread", "id": "io1"})
    move = {"node-name": "f0", "iothread": "io1"}
    with pytest.raises(AssertionError, match="Node f0 is associated with a BlockBackend"):
        qmp.execute("x-blockdev-set-iothread", **move)
    qmp.execute("x-blockdev-set-iothread", **move, force=True)
    # Nothing of the device is left behind: the thread that it had can go.
    qmp.execute("object-del", id="io0")
    with pytest.raises(AssertionError, match="io1.* is in use"):
        qmp.execute("object-del", id="io1")
    assert file_disk.read_sectors(first, 7) == sector(7)
    file_disk.write_sectors(second, 8, b"x" * SECTOR)
    qmp.execute("x-blockdev-set-iothread", **{"node-name": "f0", "iothread": None}, force=True)
    qmp.execute("object-del", id="io1")
    assert file_disk.read_sectors(second, 8) == b"x" * SECTOR
    assert file_disk.read_sectors(first, 9) == sector(9)
