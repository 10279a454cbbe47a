-- The lease table. Every function gets the position `a` of its move's first field in IN.

local FIELDS = 9  -- of a hold: name, limit, ceiling, e, fixed, per_output, window_start, window_end, kind

local function again(why)
  say(4) say(why)
end

local function cap(h, max_output)
  return math.max(IN[h + 4] + IN[h + 5] * max_output, IN[h + 3])
end

-- Why the hold at `h` does not fit, or nil; the lower, the longer it lasts. `had` is what its lease holds already.
local function refusal(h, b, worst, had, had_worst)
  local spent, limit, ceiling, e = b.settled + b.orphan, IN[h + 1], IN[h + 2], IN[h + 3]
  if spent + b.held + e - had <= limit and spent + b.exposure + worst - had_worst <= ceiling then return nil end
  if e > limit or worst > ceiling then return TOO_LARGE end
  if spent >= limit then return 2 end
  if spent + e <= limit and spent + worst <= ceiling then return 4 end
  return 3
end

-- `alerts` is where the move's thresholds stand: how many, then pairs of hold index and threshold.
local function say_crossed(alerts, holds)
  local count, crossed = IN[alerts], {}
  for i = alerts + 1, alerts + 2 * count, 2 do
    local h = holds + IN[i] * FIELDS
    if newly_crossed(bucket(IN[h], IN[h + 8]), IN[i + 1]) then
      crossed[#crossed + 1] = IN[i]
      crossed[#crossed + 1] = IN[i + 1]
    end
  end
  say(#crossed / 2)
  for i = 1, #crossed do say(crossed[i]) end
end

local function deny(why, index, b, retry)
  say(2) say(why) say(index) say(retry)
  if b then say(1) say_level(b) else say(0) end
end

local function deny_money(why, index, holds, alerts)
  local h = holds + index * FIELDS
  local b = open(IN[h], IN[h + 8], IN[h + 7])
  if b then b.d_denied = b.d_denied + 1 end
  deny(why, index, b or bucket(IN[h], IN[h + 8]), 0)
  say_crossed(alerts, holds)
end

-- What a lease has in its buckets, as hold or orphan charge, comes out; `only` names some buckets.
local function withdraw(lease, only)
  local live = lease[1] == HELD
  for t = TAKEN, #lease, STRIDE do
    local name, e, c, kind = lease[t], lease[t + 1], lease[t + 2], lease[t + 4]
    local b = (not only or only[name]) and bucket(name, kind)
    if b and b.exists and b.since <= lease[4] then
      if kind < 0 then
        if live then give_back(b, e) end
      elseif live then
        hold(b, -e, -c)
      else
        charge(b, slot_of(kind, lease[3]), 0, -e)
        if lease[5] > 0 then hold(b, 0, e - c) end
      end
    end
  end
end

local function take(lease, h, max_output)
  local name, e, window_end, kind = IN[h], IN[h + 3], IN[h + 7], IN[h + 8]
  local worst = kind < 0 and 0 or cap(h, max_output)
  local t = #lease
  lease[t + 1], lease[t + 2], lease[t + 3], lease[t + 4], lease[t + 5] = name, e, worst, window_end, kind
  lease[4] = SEQ
  local b = open(name, kind, window_end)
  if b then hold(b, e, worst) end
end

-- Reserve: rid, owner, lease_ms, part, max_output, share (0: no clamp), floor, seq, rules,
-- trips (how many, keys), rates (how many; key, limit, period, cost), holds (how many, fields), alerts

local function gate(trips, rates, holds, count)
  for i = 1, IN[trips] do
    if found[key(IN[trips + i])] then deny(TRIPPED, i - 1, nil, 0) return true end
  end
  for i = 0, count - 1 do
    local h = holds + i * FIELDS
    if IN[h + 8] < 0 then
      local b = bucket(IN[h], -1)
      if b.held + IN[h + 3] > IN[h + 1] then deny(CONCURRENCY, i, b, 0) return true end
    end
  end
  for i = 0, IN[rates] - 1 do
    local r = rates + 1 + i * 4
    local wait = wait_ms(meter(key(IN[r])), IN[r + 1], IN[r + 2], IN[r + 3])
    if wait then deny(RATE, i, nil, wait) return true end
  end
  return false
end

-- The most lasting refusal and its hold, or nil.
local function worst_refusal(holds, count, least)
  local why, index
  for i = 0, count - 1 do
    local h = holds + i * FIELDS
    if IN[h + 8] >= 0 then
      local reason = refusal(h, bucket(IN[h], IN[h + 8]), cap(h, least), 0, 0)
      if reason and (not why or reason < why) then why, index = reason, i end
    end
  end
  return why, index
end

local function lowered_output(holds, count, most, share, least)
  if share == 0 then return most end
  for i = 0, count - 1 do
    local h = holds + i * FIELDS
    if IN[h + 5] > 0 then
      local b = bucket(IN[h], IN[h + 8])
      local room = IN[h + 2] - b.settled - b.orphan - b.exposure - IN[h + 4]
      most = math.min(most, floor(room / (share * IN[h + 5])))
    end
  end
  return math.max(most, least)
end

local function fill_rates(rates, sign)
  for i = 0, IN[rates] - 1 do
    local r = rates + 1 + i * 4
    fill(meter(key(IN[r])), IN[r + 1], IN[r + 2], sign * IN[r + 3])
  end
end

local function admitted(lease, rates, holds, count, repeated)
  say(1) say(lease[7]) say(repeated)
  for i = 0, count - 1 do say_level(bucket(IN[holds + i * FIELDS], IN[holds + i * FIELDS + 8])) end
  for i = 0, IN[rates] - 1 do
    local r = rates + 1 + i * 4
    local limit, period = IN[r + 1], IN[r + 2]
    local level = used(meter(key(IN[r])), limit)
    say(floor((limit * period - level) / period)) say(math.ceil(level / limit))
  end
end

-- The parts of `wanted` that are not in `taken`, which has at least one.
local function without(wanted, taken)
  if taken == BOTH or taken == wanted then return 0 end
  return wanted == BOTH and BOTH - taken or wanted
end

local function reserve(a)
  local suffix, part, max_output, share, least = key(IN[a]), IN[a + 3], IN[a + 4], IN[a + 5], IN[a + 6]
  if NOW < OPENS_AT then return again(COLD) end
  if IN[a + 8] < RULES then return again(STALE) end
  RULES = IN[a + 8]
  local trips = a + 9
  local rates = trips + 1 + IN[trips]
  local holds = rates + 2 + 4 * IN[rates]
  local count = IN[holds - 1]
  local alerts = holds + count * FIELDS
  local lease, missing = record(suffix), part
  if not lease then
    if part == MONEY then missing = BOTH end
  elseif lease[1] == HELD then
    missing = without(part, lease[6])
    if missing == 0 then
      admitted(lease, rates, holds, count, 1)
      return say(0)
    end
  else
    return again(GONE)
  end
  for h = holds, alerts - 1, FIELDS do
    if IN[h + 7] > 0 and not (IN[h + 6] <= NOW and NOW < IN[h + 7]) then return again(WINDOW) end
  end
  if missing ~= MONEY and gate(trips, rates, holds, count) then return say(0) end
  least = share == 0 and max_output or math.min(least, max_output)
  if missing ~= GATE then
    local why, index = worst_refusal(holds, count, least)
    if why then
      deny_money(why, index, holds, alerts)
      if lease then  -- the gate is undone, as if the call had never come
        fill_rates(rates, -1)
        withdraw(lease)
        scores[suffix:sub(3)] = false
        keep(suffix, false, false)
      end
      return
    end
  end
  lease = lease or {HELD, IN[a + 1], NOW, 0, 0, 0, -1}
  local output = max_output
  if missing ~= MONEY then fill_rates(rates, 1) end
  if missing ~= GATE then
    output = lowered_output(holds, count, max_output, share, least)
    lease[7] = output < max_output and output or -1
  end
  for h = holds, alerts - 1, FIELDS do
    if missing == BOTH or (IN[h + 8] < 0) == (missing == GATE) then take(lease, h, output) end
  end
  lease[6] = lease[6] + missing
  push(suffix, lease, NOW + IN[a + 2])
  admitted(lease, rates, holds, count, 0)
  if missing ~= GATE then say_crossed(alerts, holds) else say(0) end
end

local function done(changed)
  say(3) say(changed) say(0) say(0)
end

-- Extend: rid, lease_ms, holds (how many, fields), alerts
local function extend(a)
  local suffix, count, holds = key(IN[a]), IN[a + 2], a + 3
  local lease, alerts = record(suffix), holds + count * FIELDS
  if not lease or lease[1] ~= HELD then return again(GONE) end
  local had, why, index = {}, nil, nil
  for t = TAKEN, #lease, STRIDE do had[lease[t]] = t end
  local raised = {}
  for i = 0, count - 1 do
    local h = holds + i * FIELDS
    local t, worst = had[IN[h]], cap(h, 0)
    local e, c = t and lease[t + 1] or 0, t and lease[t + 2] or 0
    if IN[h + 8] >= 0 then
      raised[IN[h]] = true
      if IN[h + 3] > e or worst > c then
        local reason = refusal(h, bucket(IN[h], IN[h + 8]), worst, e, c)
        if reason and (not why or reason < why) then why, index = reason, i end
      end
    end
  end
  if why then return deny_money(why, index, holds, alerts) end
  withdraw(lease, raised)
  local grown = {}
  for i = 1, TAKEN - 1 do grown[i] = lease[i] end
  for t = TAKEN, #lease, STRIDE do
    if not raised[lease[t]] then
      for i = t, t + STRIDE - 1 do grown[#grown + 1] = lease[i] end
    end
  end
  say(3) say(1) say(count)
  for h = holds, alerts - 1, FIELDS do
    if IN[h + 8] >= 0 then take(grown, h, 0) end
  end
  for h = holds, alerts - 1, FIELDS do say_level(bucket(IN[h], IN[h + 8])) end
  say(0)
  push(suffix, grown, NOW + IN[a + 1])
end

-- Assert: rid, owner, lease_ms, max_output, holds (how many, fields), alerts
local function assert_lease(a)
  local suffix, holds = key(IN[a]), a + 5
  if record(suffix) then return done(0) end
  local lease = {HELD, IN[a + 1], NOW, 0, 0, BOTH, -1}
  for h = holds, holds + IN[a + 4] * FIELDS - 1, FIELDS do take(lease, h, IN[a + 3]) end
  push(suffix, lease, NOW + IN[a + 2])
  done(1)
end

local function revive(lease)
  for t = TAKEN, #lease, STRIDE do
    local name, e, c, kind = lease[t], lease[t + 1], lease[t + 2], lease[t + 4]
    local b = kind < 0 and open(name, kind, 0) or bucket(name, kind)
    if b.exists and b.since <= lease[4] then
      if kind < 0 then
        hold(b, e, 0)
      else
        charge(b, slot_of(kind, lease[3]), 0, -e)
        hold(b, e, lease[5] > 0 and e or c)
      end
    end
  end
  lease[1] = HELD
end

-- Renew: owner, lease_ms, rids (how many, keys)
local function renew(a)
  local count, gone = IN[a + 2], {}
  for i = a + 3, a + 2 + count do
    local suffix = key(IN[i])
    local lease = record(suffix)
    if lease and lease[1] <= ORPHAN and lease[2] == IN[a] then
      if lease[1] == ORPHAN then revive(lease) end
      push(suffix, lease, NOW + IN[a + 1])
    else
      gone[#gone + 1] = i - a - 3
    end
  end
  say(3) say(#gone < count and 1 or 0) say(0) say(#gone)
  for i = 1, #gone do say(gone[i]) end
end

local function correct(a)
  for r = a + 1, a + 4 * IN[a], 4 do fill(meter(key(IN[r])), IN[r + 1], IN[r + 2], IN[r + 3]) end
end

-- Settle: rid, rev, at, charges (how many; name, amount, window_end, kind), corrections (how many; as rates)
local function settle(a)
  local suffix, rev, count, charges = key(IN[a]), IN[a + 1], IN[a + 3], a + 4
  local old, before, changed = record(suffix), nil, 1
  if not old then
    if NOW - IN[a + 2] >= HORIZON then return again(GONE) end
  elseif old[1] <= ORPHAN then
    withdraw(old)
    scores[suffix:sub(3)] = false
    correct(charges + 4 * count)
  elseif rev <= old[2] then
    changed = 0
  else
    before = old
  end
  say(3) say(changed) say(count)
  local tombstone = {SETTLED, rev}
  for i = 1, count do
    local c = charges + 4 * (i - 1)
    local name, amount, window_end, kind = IN[c], IN[c + 1], IN[c + 2], IN[c + 3]
    if changed == 1 and kind >= 0 then
      local b = open(name, kind, window_end)
      local known = before and before[i + 2] or 0
      if b then charge(b, kind > 0 and slot_of(kind, window_end) - 1 or 0, amount - known, 0) end
    end
    tombstone[i + 2] = amount
    say_level(bucket(name, kind))
  end
  say(0)
  if changed == 1 then keep(suffix, tombstone, NOW + HORIZON) end
end

-- Release: rid, corrections (how many; as rates)
local function release(a)
  local suffix = key(IN[a])
  local old = record(suffix)
  if old and old[1] >= SETTLED then return done(0) end
  if old then
    withdraw(old)
    scores[suffix:sub(3)] = false
    correct(a + 1)
  end
  keep(suffix, {RELEASED, -1}, NOW + HORIZON)
  done(1)
end

-- An expired lease becomes an orphan charge: the call is presumed dispatched.
local function orphan(suffix, lease)
  local expires = NOW + HORIZON
  for t = TAKEN, #lease, STRIDE do
    local e, window_end, kind = lease[t + 1], lease[t + 3], lease[t + 4]
    local b = bucket(lease[t], kind)
    if b.exists and b.since <= lease[4] then
      if kind < 0 then
        give_back(b, e)
      else
        hold(b, -e, -e)
        charge(b, slot_of(kind, lease[3]), 0, e)
        local ends = kind > 0 and (b.slot + 1 + PARTS) * b.step + KEEP or window_end > 0 and window_end + KEEP or 0
        expires = expires > 0 and ends > 0 and math.max(expires, ends) or 0
      end
    end
  end
  lease[1] = ORPHAN
  push(suffix, lease, lease[5] + EXPOSED)
  keep(suffix, lease, expires)
end

local function reap()
  local rids = call('ZRANGEBYSCORE', PREFIX .. 'leases', '-inf', digits(NOW), 'LIMIT', '0', REAPED)
  if #rids == 0 then return end
  local suffixes = {}
  for i = 1, #rids do suffixes[i] = 'r:' .. rids[i] end
  read(suffixes)
  for i = 1, #rids do
    local lease = record(suffixes[i])
    scores[rids[i]] = false
    if lease and lease[1] == HELD then
      orphan(suffixes[i], lease)
    elseif lease and lease[1] == ORPHAN then
      for t = TAKEN, #lease, STRIDE do
        local b = bucket(lease[t], lease[t + 4])
        if lease[t + 4] >= 0 and b.exists and b.since <= lease[4] then hold(b, 0, lease[t + 1] - lease[t + 2]) end
      end
      lease[5] = 0
      keep(suffixes[i], lease, -1)
    end
  end
end
