"""The bodies that selection markers become, as ONNX text: constant trip counts, no shape that depends on data.

In every text `{n}` tokens are ranked and `{k}` stay; -1e38 is the score of a token that is out of the race.
"""

GREEDY = """<ir_version: 10, opset_import: ["" : 23]>
diverse (float[?,{n},{n}] matrix, float[?,{n}] start) => (int64[?,{k}] picks)
<int64 trips = {{{k}}}, bool always = {{1}}, int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}},
 int64 width = {{{n}}}, int64 wide = {{{k}}},
 int64[1] depth = {{{k}}},
 float[2] gone = {{0, -1e38}}, float[2] unit = {{0, 1}}, float smallest = {{1e-6}}>
"""

SEARCH = """{{
  shape = Shape(start)
  none = ConstantOfShape <value = float[1] {{{first}}}> (shape)
  last_score, last_seen, order = Loop <body = pick_one
    (int64 step, bool going, float[?,{n}] score, float[?,{n}] seen)
    => (bool on, float[?,{n}] next_score, float[?,{n}] next_seen, int64[?] pick)
    {{
      on = Identity(always)
      pick = ArgMax <axis = 1, keepdims = 0> (score)
      at = Unsqueeze(pick, one)
      row = GatherND <batch_dims = 1> (matrix, at)
      joined = {join}(seen, row)
      taken = OneHot(pick, width, gone)
      next_score = Add(joined, taken)
      next_seen = Identity(next_score)
    }}> (trips, , start, none)
  picks = Transpose <perm = [1, 0]> (order)
}}"""

FACILITY = """{{
  shape = Shape(start)
  none = ConstantOfShape <value = float[1] {{0}}> (shape)
  last_left, last_covered, order = Loop <body = pick_one
    (int64 step, bool going, float[?,{n}] left, float[?,{n}] covered)
    => (bool on, float[?,{n}] next_left, float[?,{n}] next_covered, int64[?] pick)
    {{
      on = Identity(always)
      columns = Unsqueeze(covered, one)
      more = Sub(matrix, columns)
      gains = Relu(more)
      gain = ReduceSum <keepdims = 0> (gains, two)
      score = Add(gain, left)
      pick = ArgMax <axis = 1, keepdims = 0> (score)
      at = Unsqueeze(pick, one)
      row = GatherND <batch_dims = 1> (matrix, at)
      next_covered = Max(covered, row)
      taken = OneHot(pick, width, gone)
      next_left = Add(left, taken)
    }}> (trips, , start, none)
  picks = Transpose <perm = [1, 0]> (order)
}}"""

DETERMINANT = """{{
  shape = Shape(start)
  size = Concat <axis = 0> (shape, depth)
  none = ConstantOfShape <value = float[1] {{0}}> (size)
  last_gain, last_factor, order = Loop <body = pick_one
    (int64 step, bool going, float[?,{n}] gain, float[?,{n},{k}] factor)
    => (bool on, float[?,{n}] next_gain, float[?,{n},{k}] next_factor, int64[?] pick)
    {{
      on = Identity(always)
      pick = ArgMax <axis = 1, keepdims = 0> (gain)
      best = ReduceMax (gain, one)
      safe = Max(best, smallest)
      root = Sqrt(safe)
      at = Unsqueeze(pick, one)
      row = GatherND <batch_dims = 1> (matrix, at)
      known = GatherND <batch_dims = 1> (factor, at)
      knowns = Unsqueeze(known, one)
      products = Mul(factor, knowns)
      explained = ReduceSum <keepdims = 0> (products, two)
      rest = Sub(row, explained)
      change = Div(rest, root)
      square = Mul(change, change)
      less = Sub(gain, square)
      taken = OneHot(pick, width, gone)
      next_gain = Add(less, taken)
      column = Unsqueeze(change, two)
      now = Unsqueeze(step, zero)
      here = OneHot(now, wide, unit)
      written = Mul(column, here)
      next_factor = Add(factor, written)
    }}> (trips, , start, none)
  picks = Transpose <perm = [1, 0]> (order)
}}"""

PEEL = """<ir_version: 10, opset_import: ["" : 23]>
peel (float[?,{n},{n}] matrix) => (int64[?,{k}] picks)
<int64 trips = {{{trips}}}, bool always = {{1}}, int64[{trips}] alive = {{{alive}}}, int64[{trips}] drop = {{{drop}}},
 int64[{n}] places = {{{places}}}, int64[1,{half}] even = {{{even}}}, int64[1,{half}] odd = {{{odd}}},
 int64 half = {{{half}}}, int64[1] halves = {{{half}}}, int64[1] wide = {{{n}}}, int64[1] depth = {{{k}}},
 int64 whole = {{{n}}},
 int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}}, int64 first = {{1}}, int64 second = {{2}},
 float still = {{0}}, float gone = {{-1e38}}, float lowest = {{-3e38}}>
{{
  batch = Shape <start = 0, end = 1> (matrix)
  full = Concat <axis = 0> (batch, wide)
  part = Concat <axis = 0> (batch, halves)
  line = Expand(places, full)
  none = ConstantOfShape <value = float[1] {{-1e38}}> (full)
  line_end = Loop <body = one_round
    (int64 step, bool going, int64[?,{n}] list) => (bool on, int64[?,{n}] next_list)
    {{
      on = Identity(always)
      length = Gather(alive, step)
      dropped = Gather(drop, step)
      scored = Slice(list, zero, wide, one, two)
      others = Slice(list, one, wide, one, two)
      between = Less(odd, length)
      marks = Where(between, still, gone)
      marked = Expand(marks, part)
      columns = ScatterElements <axis = 1> (none, others, marked)
      across = Unsqueeze(columns, one)
      among = Add(matrix, across)
      nearest = ReduceMax <keepdims = 0> (among, two)
      scores = GatherElements <axis = 1> (nearest, scored)
      standing = Less(even, length)
      ranked = Where(standing, scores, lowest)
      best, order = TopK(ranked, halves)
      sorted = GatherElements <axis = 1> (scored, order)
      both = Concat <axis = 1> (sorted, others)
      more = Add(length, first)
      upper = Div(more, second)
      staying = Sub(upper, dropped)
      offset = Sub(half, staying)
      behind = Add(places, offset)
      after = GreaterOrEqual(behind, half)
      before = Less(behind, whole)
      middle = And(after, before)
      skipped = Add(places, dropped)
      turned = Mod(skipped, half)
      source = Where(middle, behind, turned)
      next_list = Gather <axis = 1> (both, source)
    }}> (trips, , line)
  picks = Slice(line_end, zero, depth, one)
}}"""
