"""What is read from the text of a compiled program: kinds, bytes, and how often."""

from decoder_lab.parallel import collectives

TPU = """HloModule jit_step

%limit (p: (s32[], bf16[8,4])) -> pred[] {
  %constant.1 = s32[]{:T(128)} constant(24)
  ROOT %lt = pred[]{:T(512)} compare(%get, %constant.1), direction=LT
}

%body (p: (s32[], bf16[8,4])) -> (s32[], bf16[8,4]) {
  %start = (bf16[1,64]{1,0}, bf16[1,64]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%x), channel_id=4
  %done = bf16[1,64]{1,0} collective-permute-done(%start)
  %a = bf16[8,16]{1,0} fusion(%x), kind=kCustom, calls=%first
  %b = bf16[8,16]{1,0} fusion(%a), kind=kCustom, calls=%second
}

%first (p: bf16[8,4]) -> bf16[8,16] {
  %g = bf16[8,16]{1,0:T(8,128)(2,1)} all-gather(%p), channel_id=7, dimensions={1}, metadata={op_name="jit(step)/mlp"}
}

%second (p: bf16[8,4]) -> bf16[8,16] {
  %g = bf16[8,16]{1,0:T(8,128)(2,1)} all-gather(%p), channel_id=7, dimensions={1}, metadata={op_name="jit(step)/mlp"}
}

ENTRY %main (p: f32[4]) -> f32[4] {
  %w = (s32[], bf16[8,4]) while(%t), condition=%limit, body=%body
  %n = (s32[], f32[4]) while(%t), condition=%other, body=%last, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %r = (f32[4]{0}, s32[2]{0}) all-reduce(%a, %b), channel_id=9
}

%last (p: f32[4]) -> f32[4] {
  %s = f32[2]{0} reduce-scatter(%p), channel_id=11, replica_groups=[2,4]<=[8]
}

%other (p: f32[4]) -> pred[] {
  ROOT %c = pred[] compare(%p, %q), direction=NE
}
"""


def test_loops_are_counted_and_parts_of_one_operation_are_one():
    """A loop counts as the compiler notes, or by the limit of its counter; pieces that share a channel are one operation."""
    found = collectives.summary(collectives.of_program(TPU))
    assert found["collective-permute"] == (24, 24 * 64 * 2)  # what comes, without what goes, and without its two flags
    assert found["all-gather"] == (24, 24 * 8 * 16 * 2)
    assert found["all-reduce"] == (1, 4 * 4 + 2 * 4)
    assert found["reduce-scatter"] == (3, 3 * 4 * 2 * 4)  # what goes in: four times what comes out
    assert [one.of for one in collectives.of_program(TPU) if one.kind == "all-gather"] == ["jit(step)/mlp"]


def test_groups_and_operations_that_are_started():
    """Sizes of groups as three compilers write them; an all-reduce that is started has results only."""
    line = "%r = f32[2]{0} reduce-scatter(%p), channel_id=1, replica_groups="
    groups = ("{{0,1,2},{3,4,5}}", "[4,2]<=[2,4]T(1,0)", "mesh['axis_0'=4,'axis_1'=2] {'axis_0','axis_1'}")
    program = "ENTRY %main (p: f32[4]) -> f32[4] {{\n  {}\n}}"
    sizes = [collectives.of_program(program.format(line + group))[0].num_bytes for group in groups]
    assert sizes == [3 * 8, 2 * 8, 8 * 8]
    started = "%a = (f32[100]{0}, f32[200]{0}) all-reduce-start(%p, %q), channel_id=2"
    assert collectives.of_program(program.format(started))[0].num_bytes == 1200
