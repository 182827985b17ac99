from engines.passes import pass_tables


def entry(name, rewrites, before, after, refusals=()):
    sides = [dict(zip(("nodes", "flops", "bytes"), side, strict=True)) for side in (before, after)]
    return {"name": name, "rewrites": rewrites, "refusals": list(refusals), "before": sides[0], "after": sides[1]}


def test_a_row_for_each_pass_and_one_for_all():
    raw, folded, hoisted = (600, None, None), (250, 3e9, 2**20), (252, 2e9, 2**19)
    passes = [entry("fold", 350, raw, folded), entry("row_demand", 7, folded, hoisted, ["node a: causal"])]
    [table] = pass_tables({"parts": {"vision": {"passes": passes}}})
    assert table.title == "Passes over vision"
    assert table.rows == (
        ("fold", "350", "600 -> 250", "- -> 3 GFLOP", "- -> 1 MiB"),
        ("row_demand", "7", "250 -> 252", "3 GFLOP -> 2 GFLOP", "1 MiB -> 512 KiB"),
        ("all", "", "600 -> 252", "- -> 2 GFLOP", "- -> 512 KiB"),
    )
    assert table.note.endswith("row_demand: node a: causal.")


def test_few_refusals_are_told_and_how_many_there_are():
    side = (1, 1.0, 1.0)
    [table] = pass_tables({"parts": {"p": {"passes": [entry("mask", 0, side, side, [f"n{i}" for i in range(9)])]}}})
    assert "mask: n2. mask: and 6 more." in table.note
    assert "n3" not in table.note
