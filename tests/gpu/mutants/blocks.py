"""Mistakes in the block-sparse products and in the code that launches them; what they share is in sparse24.py."""

TILE, SHARED, RANGE = "csrc/cuda/blocks.cuh", "csrc/cuda/blocks16.cuh", "csrc/cuda/unit_range.cuh"
HOST, LAYOUT, PACK = "csrc/cuda/blocks.h", "csrc/cuda/blocks_layout.h", "kdnative/formats/gpu/blocks.py"
MATRIX = "csrc/cuda/gpu/matrix.h"

PROGRAMS = ["tests/gpu/blocks_test.cpp", "tests/gpu/blocks_test.cpp damaged"]
TESTS = ["tests/gpu/test_blocks.py", "-k", "packs or stored or chosen or refuses or accesses or same_parts or ptx"]

MUTANTS = [
    # The ring of stages.
    (TILE, "copy_wait<kStages - 2>();", "copy_wait<kStages - 1>();"),
    (TILE, "sync_threads();  // the stage has come", "// the stage has come"),
    (TILE, "copy_wait<0>();\n    sync_threads();", "copy_wait<0>();"),
    (TILE, "if (s + kStages - 1 < stages) copy_codes", "if (s + kStages - 2 < stages) copy_codes"),
    (TILE, "      empty = full;\n", ""),
    (TILE, "(end - begin + kUnits - 1) / kUnits", "(end - begin) / kUnits"),
    (TILE, "from += kWeightBytes;", "from += kUnitBytes;"),
    (TILE, "kUnits == 1 || left > i * kThreads;", "true;"),
    (TILE, "left -= kAll;", ""),
    # The gathered rows.
    (TILE, "(kUnits == 1 ? r >> 1 & 3 : r & 7)", "(kUnits == 1 ? r & 3 : r & 7)"),
    (TILE, "(kUnits == 1 ? r >> 1 & 3 : r & 7)", "(kUnits == 1 ? r >> 1 & 3 : r >> 1 & 7)"),
    (TILE, "inside[i] = row < m;", "inside[i] = row <= m;"),
    (TILE, "chunk % 4 * 16 / kSide", "chunk % 4 / 2"),
    (TILE, "thread() % 4 * 16 % kSide", "0"),
    (TILE, "column >= 0 && column < blocks", "column >= 0"),
    (TILE, "column = left > 0 ? load_global(columns) : -1;", "column = load_global(columns);"),
    (TILE, "columns += kUnits * kUnitBlocks;", "columns += kUnitBlocks;"),
    (
        TILE,
        "                     known && inside[i] ? 16 : 0);\n      look_ahead();",
        "                     known && inside[i] ? 16 : 0);",
    ),
    # Fragments.
    (
        TILE,
        "factors[half][i], rows[half * 2], rows[half * 2 + 1]",
        "factors[half][i], rows[half * 2 + 1], rows[half * 2]",
    ),
    (TILE, "(half * kTilesOutputs + i) * 512", "(half + i * 2) * 512"),
    (
        TILE,
        "factors[half][i][0] = four.x, factors[half][i][1] = four.y",
        "factors[half][i][0] = four.y, factors[half][i][1] = four.x",
    ),
    (TILE, "const int unit = u * kWarpsK + warp_k;", "const int unit = u * kWarpsK;"),
    # Blocks of 16 that share rows.
    (SHARED, "copy_wait<kStages - 2>();", "copy_wait<kStages - 1>();"),
    (SHARED, "sync_threads();  // the stage has come", "// the stage has come"),
    (SHARED, "copy_wait<0>();\n    sync_threads();", "copy_wait<0>();"),
    (
        SHARED,
        "if (ready + kStages - 1 < stages) copy_rows.next(current);",
        "if (ready + kStages - 2 < stages) copy_rows.next(current);",
    ),
    (SHARED, "    while (ready < stages) advance();\n", ""),
    (SHARED, "&& ready < stages) advance();", ") advance();"),
    (
        SHARED,
        "while (column >= static_cast<uint32_t>(ready * kStageBlocks)",
        "while (column > static_cast<uint32_t>(ready * kStageBlocks)",
    ),
    (SHARED, "column & (kStageBlocks - 1)", "column"),
    (SHARED, "{{low.x, low.y}, {low.z, low.w},", "{{low.x, low.z}, {low.y, low.w},"),
    (
        SHARED,
        "{low.z, low.w}, {high.x, high.y}, {high.z, high.w}}",
        "{high.x, high.y}, {low.z, low.w}, {high.z, high.w}}",
    ),
    (SHARED, "      fetch(unit + 1);\n", ""),
    (SHARED, "if (unit >= range.end) return;", "if (unit > range.end) return;"),
    (SHARED, "x_lane + j * 8 * kDepth", "x_lane"),
    (SHARED, "block_y() * kWarps + warp;", "block_y() + warp;"),
    (SHARED, "(outputs.n + 15) / 16", "outputs.n / 16"),
    (RANGE, "if (row >= rows) return;", ""),
    (RANGE, "begin = within(load_global(start + row), units);", "begin = load_global(start + row);"),
    (RANGE, "end = within(load_global(start + row + 1), units);", "end = load_global(start + row + 1);"),
    # The launch.
    (HOST, "(a.m + tile.rows - 1) / tile.rows);\n  kernel.grid_y", "a.m / tile.rows + 1);\n  kernel.grid_y"),
    (HOST, "(a.n + tile.outputs - 1) / tile.outputs);\n  kernel.threads", "a.n / tile.outputs + 1);\n  kernel.threads"),
    (HOST, "if (tile.side != a.side) continue;", ""),
    (HOST, "if (tile.side != a.side) throw", "if (false) throw"),
    (HOST, "if (a.units < 0 ||", "if ("),
    (LAYOUT, "start = columns + aligned(guess * 256 / side);", "start = columns + guess * 256 / side;"),
    # What only the interpreter sees.
    (MATRIX, "{%4, %5}, {%6}, {%0, %1, %2, %3};", "{%4, %4}, {%6}, {%0, %1, %2, %3};"),
    # The packed weight.
    (PACK, "units.permute(0, 4, 1, 2, 6, 5, 3, 7)", "units.permute(0, 4, 1, 2, 6, 3, 5, 7)"),
    (PACK, "in_row = kept.cumsum(1) - 1", "in_row = kept.cumsum(1)"),
    (PACK, "(kept.sum(1) + slots - 1) // slots", "kept.sum(1) // slots + 1"),
    (PACK, "used = (blocks != 0).flatten(1).any(1)", "used = (blocks == blocks).flatten(1).any(1)"),
    (PACK, "bool(((columns < 0) | (columns >= width)).any())", "False"),
    (PACK, "costs[best] < 1 else None", "costs[best] < 2 else None"),
]
