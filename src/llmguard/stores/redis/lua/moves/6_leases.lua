-- The lease table. Every function gets the position `a` of its move's first field in IN. Holds in a move are e, fixed
-- and per_output for each bucket of the set.

-- Why a hold of `e` with the cap `worst` does not fit; the lower, the longer it lasts.
local function reason(spent, e, worst, limit, ceiling)
  if e > limit or worst > ceiling then return TOO_LARGE end
  if spent >= limit then return SPENT end
  if spent + e <= limit and spent + worst <= ceiling then return CONTENDED end
  return INSUFFICIENT
end

-- `alerts` is where the move's thresholds stand: how many, then pairs of place in the set and threshold.
local function say_crossed(alerts, set)
  local at = said + 1
  say(0)
  for i = alerts + 1, alerts + 2 * IN[alerts], 2 do
    if newly_crossed(set[IN[i] + 1], IN[i + 1]) then
      out[at] = out[at] + 1
      say(IN[i])
      say(IN[i + 1])
    end
  end
end

local function deny(why, place, b, retry)
  say(2)
  say(why)
  say(place - 1)
  say(retry)
  say(b and 1 or 0)
  if b then say_level(b) end
end

local function deny_money(why, place, set, alerts)
  local b = set[place]
  if make(b, set.fields[6 * place - 3]) then b.denied = (b.denied or 0) + 1 end
  deny(why, place, b, 0)
  say_crossed(alerts, set)
end

-- Take e and c out of a bucket as what the lease has them in it for.
local function take_out(lease, b, e, c)
  local live = lease[1] == HELD
  if not b.exists or b.since > lease[4] then return end
  if b.kind < 0 then
    if live then give_back(b, e) end
  elseif live then
    hold(b, -e, -c)
  else
    charge(b, slot_of(b.kind, lease[3]), 0, -e)
    if lease[5] > 0 then hold(b, 0, e - c) end
  end
end

-- Call `visit(lease, bucket, e, c)` for everything that a lease has taken.
local function each_taken(lease, visit)
  local t, size = TAKEN, #lease
  while t <= size do
    local set = set_of(lease[t])
    for i = 1, set.n do
      local e = lease[t + 2 * i - 1]
      if e >= 0 then visit(lease, set[i], e, lease[t + 2 * i]) end
    end
    t = t + 2 * set.n + 1
  end
end

-- Append what the lease takes of the set: e, fixed and per_output stand at `holds`; `part` says which buckets.
local function take(lease, blob, set, holds, output, part)
  local t = #lease + 1
  lease[t] = blob
  for i = 1, set.n do
    local h, b = holds + 3 * i - 3, set[i]
    local e = IN[h]
    local live_calls = b.kind < 0
    if part == BOTH or live_calls == (part == GATE) then
      local c = 0
      if not live_calls then
        c = IN[h + 1] + IN[h + 2] * output
        if c < e then c = e end
      end
      lease[4], lease[t + 2 * i - 1], lease[t + 2 * i] = SEQ, e, c
      if b.exists or make(b, set.fields[6 * i - 3]) then hold(b, e, c) end
    else
      lease[t + 2 * i - 1], lease[t + 2 * i] = -1, 0
    end
  end
end

-- Reserve: rid, owner, lease_ms, part, max_output, share (0: no clamp), floor, seq, rules, set,
-- trips (how many, names), rates (how many, rates), tallies (how many, tallies), holds, alerts

-- Look at every bucket: the first one without room for a live call, the most lasting refusal for money, and the output
-- that all have room for.
local function survey(set, holds, least, most, share)
  local m, fields = IN, set.fields
  local busy, why, place
  for i = 1, set.n do
    local b, h, limit, ceiling = set[i], holds + 3 * i - 3, fields[6 * i - 1], fields[6 * i]
    local e = m[h]
    if b.kind < 0 then
      if not busy and b.held + e > limit then busy = i end
    else
      local spent, fixed, per_output = b.settled + b.orphan, m[h + 1], m[h + 2]
      local left = ceiling - spent - b.exposure
      local worst = fixed + per_output * least
      if worst < e then worst = e end
      if spent + b.held + e > limit or worst > left then
        local r = reason(spent, e, worst, limit, ceiling)
        if not why or r < why then why, place = r, i end
      elseif share > 0 and per_output > 0 then
        local fits = floor((left - fixed) / (share * per_output))
        if fits < most then most = fits end
      end
    end
  end
  return busy, why, place, most < least and least or most
end

local function gate(trips, rates, tallies, busy, set)
  for i = 1, IN[trips] do
    if singles[IN[trips + i]] then
      deny(TRIPPED, i, nil, 0)
      return false
    end
  end
  if busy then
    deny(CONCURRENCY, busy, set[busy], 0)
    return false
  end
  for r = rates + 1, rates + 4 * IN[rates], 4 do
    local wait = wait_ms(meter(r), IN[r + 1], IN[r + 2], IN[r + 3])
    if wait then
      deny(RATE, (r - rates + 3) / 4, nil, wait)
      return false
    end
  end
  local place = over(tallies)
  if place then
    deny(TALLY, place, nil, 0)
    return false
  end
  return true
end

local function admit(lease, set, rates, tallies, repeated)
  local n = said
  set.shown = true
  out[n + 1], out[n + 2], out[n + 3] = 1, lease[7], repeated
  said = n + 3
  say_rates(rates)
  say_counts(tallies)
end

-- The parts of `wanted` that are not in `taken`, which has at least one.
local function without(wanted, taken)
  if taken == BOTH or taken == wanted then return 0 end
  return wanted == BOTH and BOTH - taken or wanted
end

local function reserve(a)
  local m = IN
  if NOW < OPENS_AT then return again(COLD) end
  if m[a + 8] < RULES then return again(STALE) end
  RULES = m[a + 8]
  local entry, part, most, share, trips = entries[m[a]], m[a + 3], m[a + 4], m[a + 5], a + 10
  local rates = trips + 1 + m[trips]
  local tallies = rates + 1 + 4 * m[rates]
  local holds = tallies + 1 + 5 * m[tallies]
  local blob = BLOBS[m[a + 9]]
  local lease, set, missing = record(entry), set_of(blob), part
  if not lease then
    if part == MONEY then missing = BOTH end
  elseif lease[1] == HELD then
    missing = without(part, lease[6])
    if missing == 0 then
      admit(lease, set, rates, tallies, 1)
      return say(0)
    end
  else
    return again(GONE)
  end
  local alerts = holds + 3 * set.n
  if not set.inside then return again(WINDOW) end
  local least = most
  if share > 0 and m[a + 6] < most then least = m[a + 6] end
  local busy, why, place, output = survey(set, holds, least, most, share)
  if missing ~= MONEY and not gate(trips, rates, tallies, busy, set) then return say(0) end
  if why and missing ~= GATE then
    deny_money(why, place, set, alerts)
    if lease then  -- its gate is undone, as if the call had never come
      fill(rates, -1)
      take_back(tallies)
      each_taken(lease, take_out)
      finish(entry, false, false)
    end
    return
  end
  lease = lease or {HELD, m[a + 1], NOW, 0, 0, 0, -1}
  if missing ~= MONEY then
    fill(rates, 1)
    count(tallies)
  end
  if missing ~= GATE and output < most then lease[7] = output end
  take(lease, blob, set, holds, output, missing)
  lease[6] = lease[6] + missing
  push(entry, lease, NOW + m[a + 2])
  admit(lease, set, rates, tallies, 0)
  if missing ~= GATE and m[alerts] > 0 then say_crossed(alerts, set) else say(0) end
end

-- Extend: rid, lease_ms, set, holds, alerts
local function extend(a)
  local entry, blob, holds = entries[IN[a]], BLOBS[IN[a + 2]], a + 3
  local lease = record(entry)
  if not lease or lease[1] ~= HELD then return again(GONE) end
  local set, had, why, place = set_of(blob), {}, nil, nil
  each_taken(lease, function(_, b, e, c) had[b] = {e, c} end)
  for i = 1, set.n do
    local b, h, limit, ceiling = set[i], holds + 3 * i - 3, set.fields[6 * i - 1], set.fields[6 * i]
    if b.kind >= 0 then
      local e, worst, old = IN[h], max(IN[h + 1], IN[h]), had[b] or {0, 0}
      local spent = b.settled + b.orphan
      if (e > old[1] or worst > old[2])
          and (spent + b.held + e - old[1] > limit or spent + b.exposure + worst - old[2] > ceiling) then
        local r = reason(spent, e, worst, limit, ceiling)
        if not why or r < why then why, place = r, i end
      end
    end
  end
  if why then return deny_money(why, place, set, holds + 3 * set.n) end
  local raised = {}
  for i = 1, set.n do raised[set[i]] = set[i].kind >= 0 end
  local kept, t = {}, TAKEN
  for i = 1, TAKEN - 1 do kept[i] = lease[i] end
  while t <= #lease do  -- what is raised comes out; a set of which nothing is left is dropped
    local old, left = set_of(lease[t]), false
    for i = 1, old.n do
      local e, c = lease[t + 2 * i - 1], lease[t + 2 * i]
      if e >= 0 and raised[old[i]] then
        take_out(lease, old[i], e, c)
        lease[t + 2 * i - 1], lease[t + 2 * i] = -1, 0
      end
      left = left or lease[t + 2 * i - 1] >= 0
    end
    for i = t, left and t + 2 * old.n or t - 1 do kept[#kept + 1] = lease[i] end
    t = t + 2 * old.n + 1
  end
  take(kept, blob, set, holds, 0, MONEY)
  push(entry, kept, NOW + IN[a + 1])
  set.shown = true
  done(1)
end

-- Assert: rid, owner, lease_ms, max_output, set, holds
local function assert_lease(a)
  local entry = entries[IN[a]]
  if record(entry) then return done(0) end
  local lease, blob = {HELD, IN[a + 1], NOW, 0, 0, BOTH, -1}, BLOBS[IN[a + 4]]
  take(lease, blob, set_of(blob), a + 5, IN[a + 3], BOTH)
  push(entry, lease, NOW + IN[a + 2])
  done(1)
end

local function revive(lease, b, e, c)
  if b.kind < 0 then
    b.exists = true
    hold(b, e, 0)
  elseif b.exists and b.since <= lease[4] then
    charge(b, slot_of(b.kind, lease[3]), 0, -e)
    hold(b, e, lease[5] > 0 and e or c)
  end
end

-- Renew: owner, lease_ms, rids (how many, rids), owner leases of runs
local function renew(a)
  local count, gone = IN[a + 2], {}
  for i = a + 3, a + 2 + count do
    local entry = entries[IN[i]]
    local lease = record(entry)
    if lease and lease[1] <= ORPHAN and lease[2] == IN[a] then
      if lease[1] == ORPHAN then
        each_taken(lease, revive)
        lease[1] = HELD
      end
      push(entry, lease, NOW + IN[a + 1])
    else
      gone[#gone + 1] = i - a - 3
    end
  end
  renew_runs(a + 3 + count, IN[a + 1])
  say_gone(gone, count)
end

-- What a call has counted, put right at its end. a: corrections (how many, rates), tallies
local function correct(a)
  fill(a, 1)
  take_back(a + 1 + 4 * IN[a])
end

-- Settle: rid, rev, at, set, amounts (one for each bucket of the set), corrections (how many, rates), tallies
local function settle(a)
  local m = IN
  local entry, rev, set = entries[m[a]], m[a + 1], set_of(BLOBS[m[a + 3]])
  local old, before = record(entry), nil
  if not old then
    if NOW - m[a + 2] >= HORIZON then return again(GONE) end
  elseif old[1] <= ORPHAN then
    each_taken(old, take_out)
    entry[4] = false
    correct(a + 4 + set.n)
  elseif rev <= old[2] then
    return done(0)
  else
    before = old
  end
  local tombstone, fields = {SETTLED, rev}, set.fields
  for i = 1, set.n do
    local b, amount = set[i], m[a + 3 + i]
    tombstone[i + 2] = amount
    if b.kind >= 0 and (b.exists or make(b, fields[6 * i - 3])) then
      if before then amount = amount - (before[i + 2] or 0) end
      if b.kind > 0 then
        charge(b, slot_of(b.kind, fields[6 * i - 3]) - 1, amount, 0)
      else
        charge(b, 0, amount, 0)
      end
    end
  end
  keep(entry, tombstone, NOW + HORIZON)
  done(1)
end

-- Release: rid, corrections (how many, rates), tallies
local function release(a)
  local entry = entries[IN[a]]
  local old = record(entry)
  if old and old[1] >= SETTLED then return done(0) end
  if old then
    each_taken(old, take_out)
    entry[4] = false
    correct(a + 1)
  end
  keep(entry, {RELEASED, -1}, NOW + HORIZON)
  done(1)
end
