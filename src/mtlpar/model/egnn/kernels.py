"""Triton kernels behind `mtlpar.model.egnn.triton`, which has the formulas and the names.

A kernel's program handles some edges, or the edges of some atoms, and a slice of the features.
Sums over an atom's edges are products with a matrix of ones and zeros, sums over all edges are left
to the caller as one part per program: nothing is added atomically, so results are the same in every
run. The type of features is that of the tensors passed; sums are in float32, and so is whatever
touches vectors or directions.

Rows of features are padded to ``PADDED`` numbers, so that each starts at an address that wide loads
and the matrix units like; padding is zero and stays zero.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Sums of so many atoms a program can hold at a time: the fewest rows that the matrix units take.
ROWS = tl.constexpr(16)


@triton.jit(do_not_specialize=["edges"])
def edge_features(
    radial,
    vectors,
    direction,
    receiver,
    sender,
    out,
    edges,
    K: tl.constexpr,
    D: tl.constexpr,
    X: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """Write [e_ij, V_i.u_ij, V_j.u_ij, 0] in rows of X."""
    e = (tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E)).to(tl.int64)
    live = (e < edges)[:, None]
    x = tl.arange(0, X)[None, :]
    row = e[:, None]
    values = tl.load(radial + row * K + x, mask=live & (x < K), other=0.0).to(tl.float32)
    if D > 0:
        is_sender = x >= K + D
        along = live & (x >= K) & (x < K + 2 * D)
        ends = tl.load(receiver + row, mask=live, other=0)
        atom = tl.where(is_sender, tl.load(sender + row, mask=live, other=0), ends)
        vector = atom * D + tl.where(is_sender, x - K - D, x - K)
        for axis in tl.static_range(3):
            component = tl.load(vectors + vector * 3 + axis, mask=along, other=0.0)
            values += component * tl.load(direction + row * 3 + axis, mask=live, other=0.0)
    tl.store(out + row * X + x, values.to(out.dtype.element_ty), mask=live)


@triton.jit
def _hidden(
    at_receiver,
    at_sender,
    to,
    of,
    features,
    weight,
    f,
    known,
    PADDED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The formula's p of some edges and features, in float32; where not ``known``, zero."""
    hidden = tl.load(at_receiver + to[:, None] * PADDED + f, mask=known, other=0.0).to(tl.float32)
    hidden += tl.load(at_sender + of[:, None] * PADDED + f, mask=known, other=0.0).to(tl.float32)
    return tl.dot(features, weight, hidden, input_precision=PRECISION)


@triton.jit(do_not_specialize=["edges"])
def activate(
    at_receiver,
    at_sender,
    features,
    feature_weight,
    receiver,
    sender,
    out,
    edges,
    PADDED: tl.constexpr,
    X: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_F: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Write silu(p)."""
    e = (tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E)).to(tl.int64)
    f = (tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F))[None, :]
    x = tl.arange(0, X)
    live = e < edges
    to = tl.load(receiver + e, mask=live, other=0)
    of = tl.load(sender + e, mask=live, other=0)
    inputs = tl.load(features + e[:, None] * X + x[None, :], mask=live[:, None], other=0.0)
    weight = tl.load(feature_weight + x[:, None] * PADDED + f, mask=f < PADDED, other=0.0)
    known = live[:, None] & (f < PADDED)
    hidden = _hidden(
        at_receiver, at_sender, to, of, inputs, weight, f, known, PADDED=PADDED, PRECISION=PRECISION
    )
    values = (hidden * tl.sigmoid(hidden)).to(out.dtype.element_ty)
    tl.store(out + e[:, None] * PADDED + f, values, mask=live[:, None] & (f < PADDED))


@triton.jit
def _runs(start, group, atoms, ATOMS: tl.constexpr):
    """A group's atoms, which of them there are, and where in a list of edges theirs lie."""
    row = tl.arange(0, ROWS)
    atom = group * ATOMS + row
    exists = (row < ATOMS) & (atom < atoms)
    begin = tl.load(start + atom, mask=exists, other=0)
    end = tl.load(start + atom + 1, mask=exists, other=0)
    first = tl.load(start + group * ATOMS)
    last = tl.load(start + tl.minimum(group * ATOMS + ATOMS, atoms))
    return atom[:, None], exists[:, None], begin, end, first, last


@triton.jit
def _membership(place, begin, end):
    """Where an edge at a place belongs to an atom, (atoms, edges)."""
    return (place[None, :] >= begin[:, None]) & (place[None, :] < end[:, None])


@triton.jit(do_not_specialize=["atoms", "edges"])
def collect(
    inner,
    features,
    filter_weight,
    vector_weight,
    start,
    received,
    lengths,
    atoms,
    edges,
    scale,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    X: tl.constexpr,
    L: tl.constexpr,
    ATOMS: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_F: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """From z to sums of m per atom, and [W_v; W_c] m per edge in one part per slice of features."""
    part = tl.program_id(1)
    f = part * BLOCK_F + tl.arange(0, BLOCK_F)[None, :]
    x = tl.arange(0, X)
    length = tl.arange(0, L)
    inside = f < PADDED
    filters = tl.load(filter_weight + x[:, None] * PADDED + f, mask=inside, other=0.0)
    pushes = tl.load(vector_weight + length[:, None] * PADDED + f, mask=inside, other=0.0)
    atom, exists, begin, end, first, last = _runs(start, tl.program_id(0), atoms, ATOMS)
    total = tl.zeros((ROWS, BLOCK_F), dtype=tl.float32)
    for place in range(first, last, BLOCK_E):
        e = place + tl.arange(0, BLOCK_E).to(tl.int64)
        live = (e < last)[:, None]
        row = e[:, None]
        z = tl.load(inner + row * PADDED + f, mask=live & inside, other=0.0).to(tl.float32)
        inputs = tl.load(features + row * X + x[None, :], mask=live, other=0.0)
        message = z * tl.sigmoid(z) * tl.dot(inputs, filters, input_precision=PRECISION)
        rounded = message.to(inner.dtype.element_ty)
        belongs = _membership(e, begin, end).to(inner.dtype.element_ty)
        total = tl.dot(belongs, rounded, total, input_precision=PRECISION)
        found = tl.dot(rounded, tl.trans(pushes), input_precision=PRECISION)
        to = lengths + (part.to(tl.int64) * edges + row) * L + length[None, :]
        tl.store(to, found, mask=live)
    wanted = exists & (f < WIDTH)
    tl.store(received + atom * WIDTH + f, total * scale, mask=wanted)


@triton.jit(do_not_specialize=["atoms", "edges"])
def push(
    lengths,
    vectors,
    direction,
    sender,
    start,
    pushed,
    carried,
    atoms,
    edges,
    scale,
    PARTS: tl.constexpr,
    C: tl.constexpr,
    D: tl.constexpr,
    L: tl.constexpr,
    CHANNELS: tl.constexpr,
    ATOMS: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """Sum (W_v m) u + (W_c m) V_j per atom; keep W_c m per edge."""
    atom, exists, begin, end, first, last = _runs(start, tl.program_id(0), atoms, ATOMS)
    c = tl.arange(0, CHANNELS)[None, :]
    total_x = tl.zeros((ROWS, CHANNELS), dtype=tl.float32)
    total_y = tl.zeros((ROWS, CHANNELS), dtype=tl.float32)
    total_z = tl.zeros((ROWS, CHANNELS), dtype=tl.float32)
    for place in range(first, last, BLOCK_E):
        e = place + tl.arange(0, BLOCK_E).to(tl.int64)
        live = (e < last)[:, None]
        row = e[:, None]
        along = tl.zeros((BLOCK_E, CHANNELS), dtype=tl.float32)
        through = tl.zeros((BLOCK_E, CHANNELS), dtype=tl.float32)
        for part in range(PARTS):
            of = lengths + (row + part * edges.to(tl.int64)) * L + c
            along += tl.load(of, mask=live & (c < C), other=0.0)
            if D > 0:
                through += tl.load(of + C, mask=live & (c < D), other=0.0)
        unit_x = tl.load(direction + row * 3, mask=live, other=0.0)
        unit_y = tl.load(direction + row * 3 + 1, mask=live, other=0.0)
        unit_z = tl.load(direction + row * 3 + 2, mask=live, other=0.0)
        push_x, push_y, push_z = along * unit_x, along * unit_y, along * unit_z
        if D > 0:
            tl.store(carried + row * D + c, through, mask=live & (c < D))
            of = vectors + (tl.load(sender + row, mask=live, other=0) * D + c) * 3
            push_x += through * tl.load(of, mask=live & (c < D), other=0.0)
            push_y += through * tl.load(of + 1, mask=live & (c < D), other=0.0)
            push_z += through * tl.load(of + 2, mask=live & (c < D), other=0.0)
        belongs = _membership(e, begin, end).to(tl.float32)
        total_x = tl.dot(belongs, push_x, total_x, input_precision="ieee")
        total_y = tl.dot(belongs, push_y, total_y, input_precision="ieee")
        total_z = tl.dot(belongs, push_z, total_z, input_precision="ieee")
    to = pushed + (atom * C + c) * 3
    wanted = exists & (c < C)
    tl.store(to, total_x * scale, mask=wanted)
    tl.store(to + 1, total_y * scale, mask=wanted)
    tl.store(to + 2, total_z * scale, mask=wanted)


@triton.jit(do_not_specialize=["edges"])
def length_gradients(
    grad_pushed,
    vectors,
    direction,
    receiver,
    sender,
    out,
    edges,
    scale,
    C: tl.constexpr,
    D: tl.constexpr,
    L: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """Gradients of [W_v; W_c] m per edge, in rows of L."""
    e = (tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E)).to(tl.int64)
    live = (e < edges)[:, None]
    row = e[:, None]
    length = tl.arange(0, L)[None, :]
    is_carried = length >= C
    channel = tl.where(is_carried, length - C, length)
    to = tl.load(receiver + row, mask=live, other=0)
    of = tl.load(sender + row, mask=live, other=0)
    known = live & (length < C + D)
    values = tl.zeros((BLOCK_E, L), dtype=tl.float32)
    for axis in tl.static_range(3):
        pull = tl.load(grad_pushed + (to * C + channel) * 3 + axis, mask=known, other=0.0)
        unit = tl.load(direction + row * 3 + axis, mask=live, other=0.0)
        if D > 0:
            vector = vectors + (of * D + channel) * 3 + axis
            unit = tl.where(is_carried, tl.load(vector, mask=known & is_carried, other=0.0), unit)
        values += pull * unit
    tl.store(out + row * L + length, (values * scale).to(out.dtype.element_ty), mask=live)


@triton.jit(do_not_specialize=["edges", "edges_per_program"])
def message_gradients(
    inner,
    features,
    filter_weight,
    vector_weight,
    grad_lengths,
    grad_received,
    receiver,
    parts,
    edges,
    edges_per_program,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    X: tl.constexpr,
    L: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_F: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Replace z by its gradient; parts of the gradients of [W_v; W_c], W_f and w, in rows."""
    program = tl.program_id(0)
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)[None, :]
    x = tl.arange(0, X)
    length = tl.arange(0, L)
    inside = f < PADDED
    filters = tl.load(filter_weight + x[:, None] * PADDED + f, mask=inside, other=0.0)
    pushes = tl.load(vector_weight + length[:, None] * PADDED + f, mask=inside, other=0.0)
    grad_filters = tl.zeros((X, BLOCK_F), dtype=tl.float32)
    grad_pushes = tl.zeros((L, BLOCK_F), dtype=tl.float32)
    grad_bias = tl.zeros((1, BLOCK_F), dtype=tl.float32)
    first = program * edges_per_program
    last = tl.minimum(first + edges_per_program, edges)
    for place in range(first, last, BLOCK_E):
        e = place + tl.arange(0, BLOCK_E).to(tl.int64)
        live = (e < last)[:, None]
        row = e[:, None]
        z = tl.load(inner + row * PADDED + f, mask=live & inside, other=0.0).to(tl.float32)
        inputs = tl.load(features + row * X + x[None, :], mask=live, other=0.0)
        pull = tl.load(grad_lengths + row * L + length[None, :], mask=live, other=0.0)
        to = tl.load(receiver + e, mask=e < last, other=0)[:, None]
        grad = tl.load(grad_received + to * WIDTH + f, mask=live & (f < WIDTH), other=0.0)
        grad = tl.dot(pull, pushes, grad.to(tl.float32), input_precision=PRECISION)
        gate = tl.sigmoid(z)
        unfiltered = z * gate
        weight = tl.dot(inputs, filters, input_precision=PRECISION)
        message = (unfiltered * weight).to(inner.dtype.element_ty)
        grad_pushes = tl.dot(tl.trans(pull), message, grad_pushes, input_precision=PRECISION)
        through = (unfiltered * grad).to(inner.dtype.element_ty)
        grad_filters = tl.dot(tl.trans(inputs), through, grad_filters, input_precision=PRECISION)
        grad = grad * weight * gate * (1 + z * (1 - gate))
        tl.store(inner + row * PADDED + f, grad.to(inner.dtype.element_ty), mask=live & inside)
        grad_bias += tl.sum(grad, axis=0, keep_dims=True)
    to = parts + program.to(tl.int64) * (L + X + 1) * PADDED + f
    tl.store(to + length[:, None] * PADDED, grad_pushes, mask=inside)
    tl.store(to + (L + x[:, None]) * PADDED, grad_filters, mask=inside)
    tl.store(to + (L + X) * PADDED, grad_bias, mask=inside)


@triton.jit(do_not_specialize=["atoms"])
def hidden_gradients(
    grad_activated,
    at_receiver,
    at_sender,
    features,
    feature_weight,
    receiver,
    sender,
    start,
    grad_at_receiver,
    parts,
    atoms,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    X: tl.constexpr,
    ATOMS: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_F: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Replace the gradient of silu(p) by that of p; sum it per receiver, and into that of W_x."""
    program = tl.program_id(0)
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)[None, :]
    x = tl.arange(0, X)
    inside = f < PADDED
    weight = tl.load(feature_weight + x[:, None] * PADDED + f, mask=inside, other=0.0)
    grad_weight = tl.zeros((X, BLOCK_F), dtype=tl.float32)
    for group in range(program, tl.cdiv(atoms, ATOMS), tl.num_programs(0)):
        atom, exists, begin, end, first, last = _runs(start, group, atoms, ATOMS)
        total = tl.zeros((ROWS, BLOCK_F), dtype=tl.float32)
        for place in range(first, last, BLOCK_E):
            e = place + tl.arange(0, BLOCK_E).to(tl.int64)
            live = (e < last)[:, None]
            row = e[:, None]
            to = tl.load(receiver + e, mask=e < last, other=0)
            of = tl.load(sender + e, mask=e < last, other=0)
            inputs = tl.load(features + row * X + x[None, :], mask=live, other=0.0)
            known = live & inside
            hidden = _hidden(
                at_receiver,
                at_sender,
                to,
                of,
                inputs,
                weight,
                f,
                known,
                PADDED=PADDED,
                PRECISION=PRECISION,
            )
            at = grad_activated + row * PADDED + f
            grad = tl.load(at, mask=live & inside, other=0.0).to(tl.float32)
            gate = tl.sigmoid(hidden)
            grad = (grad * gate * (1 + hidden * (1 - gate))).to(grad_activated.dtype.element_ty)
            tl.store(at, grad, mask=live & inside)
            belongs = _membership(e, begin, end).to(grad_activated.dtype.element_ty)
            total = tl.dot(belongs, grad, total, input_precision=PRECISION)
            grad_weight = tl.dot(tl.trans(inputs), grad, grad_weight, input_precision=PRECISION)
        wanted = exists & (f < WIDTH)
        to = grad_at_receiver + atom * WIDTH + f
        tl.store(to, total.to(grad_at_receiver.dtype.element_ty), mask=wanted)
    to = parts + (program.to(tl.int64) * X + x[:, None]) * PADDED + f
    tl.store(to, grad_weight, mask=inside)


@triton.jit(do_not_specialize=["atoms", "edges"])
def sender_gradients(
    grad_hidden,
    feature_weight,
    order,
    start,
    grad_at_sender,
    along,
    atoms,
    edges,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    X: tl.constexpr,
    ATOMS: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_F: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Sum the gradient of p per sender; that of an edge's features, a part per slice of p."""
    part = tl.program_id(1)
    f = part * BLOCK_F + tl.arange(0, BLOCK_F)[None, :]
    x = tl.arange(0, X)
    inside = f < PADDED
    weight = tl.load(feature_weight + x[:, None] * PADDED + f, mask=inside, other=0.0)
    atom, exists, begin, end, first, last = _runs(start, tl.program_id(0), atoms, ATOMS)
    total = tl.zeros((ROWS, BLOCK_F), dtype=tl.float32)
    for place in range(first, last, BLOCK_E):
        at = place + tl.arange(0, BLOCK_E)
        live = (at < last)[:, None]
        row = tl.load(order + at, mask=at < last, other=0).to(tl.int64)[:, None]
        grad = tl.load(grad_hidden + row * PADDED + f, mask=live & inside, other=0.0)
        belongs = _membership(at, begin, end).to(grad_hidden.dtype.element_ty)
        total = tl.dot(belongs, grad, total, input_precision=PRECISION)
        if D > 0:
            found = tl.dot(grad, tl.trans(weight), input_precision=PRECISION)
            to = along + (part.to(tl.int64) * edges + row) * X + x[None, :]
            tl.store(to, found, mask=live)
    wanted = exists & (f < WIDTH)
    to = grad_at_sender + atom * WIDTH + f
    tl.store(to, total.to(grad_at_sender.dtype.element_ty), mask=wanted)


@triton.jit(do_not_specialize=["atoms", "edges"])
def vector_gradients(
    along,
    carried,
    grad_pushed,
    direction,
    receiver,
    receiver_start,
    sender_order,
    sender_start,
    grad_vectors,
    atoms,
    edges,
    scale,
    PARTS: tl.constexpr,
    K: tl.constexpr,
    C: tl.constexpr,
    D: tl.constexpr,
    X: tl.constexpr,
    CHANNELS: tl.constexpr,
    ATOMS: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """Sum what every V gets from edges that its atom receives, and by those that it sends."""
    group = tl.program_id(0)
    d = tl.arange(0, CHANNELS)[None, :]
    total_x = tl.zeros((ROWS, CHANNELS), dtype=tl.float32)
    total_y = tl.zeros((ROWS, CHANNELS), dtype=tl.float32)
    total_z = tl.zeros((ROWS, CHANNELS), dtype=tl.float32)
    for side in tl.static_range(2):
        start = sender_start if side else receiver_start
        atom, exists, begin, end, first, last = _runs(start, group, atoms, ATOMS)
        for place in range(first, last, BLOCK_E):
            at = place + tl.arange(0, BLOCK_E)
            live = (at < last)[:, None]
            known = live & (d < D)
            if side:
                row = tl.load(sender_order + at, mask=at < last, other=0).to(tl.int64)[:, None]
            else:
                row = at.to(tl.int64)[:, None]
            length = tl.zeros((BLOCK_E, CHANNELS), dtype=tl.float32)
            for part in range(PARTS):
                of = along + (row + part * edges.to(tl.int64)) * X + (K + side * D + d)
                length += tl.load(of, mask=known, other=0.0)
            unit_x = tl.load(direction + row * 3, mask=live, other=0.0)
            unit_y = tl.load(direction + row * 3 + 1, mask=live, other=0.0)
            unit_z = tl.load(direction + row * 3 + 2, mask=live, other=0.0)
            grad_x, grad_y, grad_z = length * unit_x, length * unit_y, length * unit_z
            if side:
                through = tl.load(carried + row * D + d, mask=known, other=0.0) * scale
                to = tl.load(receiver + row, mask=live, other=0)
                pull = grad_pushed + (to * C + d) * 3
                grad_x += through * tl.load(pull, mask=known, other=0.0)
                grad_y += through * tl.load(pull + 1, mask=known, other=0.0)
                grad_z += through * tl.load(pull + 2, mask=known, other=0.0)
            belongs = _membership(at, begin, end).to(tl.float32)
            total_x = tl.dot(belongs, grad_x, total_x, input_precision="ieee")
            total_y = tl.dot(belongs, grad_y, total_y, input_precision="ieee")
            total_z = tl.dot(belongs, grad_z, total_z, input_precision="ieee")
    to = grad_vectors + (atom * D + d) * 3
    wanted = exists & (d < D)
    tl.store(to, total_x, mask=wanted)
    tl.store(to + 1, total_y, mask=wanted)
    tl.store(to + 2, total_z, mask=wanted)
