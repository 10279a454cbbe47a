-- The worker guard: runs of a task, the breaker and the retry window of a name, trips (see core/running.py).
--
-- STRING own:<key> {started, vain, forgotten, done, how many left, their ids, then per run: id, due, paid}
-- STRING brk:<name> {open_until, cooldown, canary, canary_until, how many endings, per slot: slot, ended, failed; then
--   entries per slot: slot, first, retries}
-- STRING trip:<name>

local KEEP_RUNS = 24 * 3600000
local REMEMBERED, LEFT = 16, 4
local PPM = 1000000
local ENDING_SLOT, ENDING_SLOTS = 60000, 10
local ENTRY_SLOT, ENTRY_SLOTS = 10000, 6
local KEEP_BREAKER = ENDING_SLOT * (ENDING_SLOTS + 1)
local GO, IS_TRIPPED, IS_DONE, IS_RUNNING, MUCH_PAID, MUCH_LOST, TALLIED, BREAKS, OVER_RETRIES = 1, 2, 3, 4, 5, 6, 7, 8, 9

-- ---------------------------------------------------------------------- runs of a key

local function runs_of(place)
  local known = tasks[place]
  if known then return known end
  known = {started = 0, vain = 0, forgotten = 0, done = false, left = {}}
  if singles[place] then
    local packed = cmsgpack.unpack(singles[place])
    known.started, known.vain, known.forgotten, known.done = packed[1], packed[2], packed[3], packed[4] == 1
    local first = 6 + packed[5]
    for i = 6, first - 1 do known.left[i - 5] = packed[i] end
    for i = first, #packed, 3 do
      known[#known + 1] = {id = packed[i], due = packed[i + 1], paid = packed[i + 2]}
    end
  end
  tasks[place] = known
  return known
end

local function write_runs(place, known)
  if not known.changed then return end
  local packed = {known.started, known.vain, known.forgotten, known.done and 1 or 0, #known.left, unpack(known.left)}
  for _, run in ipairs(known) do
    local n = #packed
    packed[n + 1], packed[n + 2], packed[n + 3] = run.id, run.due, run.paid
  end
  call('SET', PREFIX .. name_at(place), cmsgpack.pack(packed), 'PXAT', NOW + KEEP_RUNS)
end

local function place_of(known, id)
  for i, run in ipairs(known) do
    if run.id == id then return i end
  end
end

-- Paid attempts in vain, lost runs, live runs.
local function tell_runs(known)
  local paid, lost, running = known.vain, known.forgotten, 0
  for _, run in ipairs(known) do
    if run.due > NOW then
      running = running + 1
    else
      paid, lost = paid + run.paid, lost + 1
    end
  end
  return paid, lost, running
end

local function begin_run(known, id, due)
  local run = {id = id, due = due, paid = 0}
  known.done, known.started, known.changed = false, known.started + 1, true
  known[#known + 1] = run
  if #known > REMEMBERED then
    for i, old in ipairs(known) do
      if old.due <= NOW then
        table.remove(known, i)
        known.vain, known.forgotten = known.vain + old.paid, known.forgotten + 1
        break
      end
    end
  end
  return run
end

local function knows_end(known, id)
  for _, left in ipairs(known.left) do
    if left == id then return true end
  end
  return known.done and not place_of(known, id)
end

-- Owner leases: how many, then key and run id of each.
local function renew_runs(a, lease_ms)
  for i = a + 1, a + 2 * IN[a], 2 do
    local known, id, due = runs_of(IN[i]), IN[i + 1], NOW + lease_ms
    if not knows_end(known, id) then
      local at = place_of(known, id)
      local run = at and known[at] or begin_run(known, id, due)
      run.due, known.changed = due, true
    end
  end
end

-- Paid: key, run id
local function pay(a)
  local known, id = runs_of(IN[a]), IN[a + 1]
  if knows_end(known, id) then return done(0) end
  local at = place_of(known, id)
  local run = at and known[at] or begin_run(known, id, NOW)
  if run.paid == 1 then return done(0) end
  run.paid, known.changed = 1, true
  done(1)
end

-- ---------------------------------------------------------------------- breaker and retry window of a name

local function breaker_of(place)
  local b = breakers[place]
  if b then return b end
  b = {open_until = 0, cooldown = 0, canary = '', canary_until = 0, endings = {}, entries = {}}
  if singles[place] then
    local packed = cmsgpack.unpack(singles[place])
    b.open_until, b.cooldown, b.canary, b.canary_until = packed[1], packed[2], packed[3], packed[4]
    for i = 6, #packed, 3 do
      local slots = i < 6 + 3 * packed[5] and b.endings or b.entries
      slots[#slots + 1] = {packed[i], packed[i + 1], packed[i + 2]}
    end
  end
  breakers[place] = b
  return b
end

local function write_breaker(place, b)
  if not b.changed then return end
  local packed = {b.open_until, b.cooldown, b.canary, b.canary_until, #b.endings}
  for _, slots in ipairs({b.endings, b.entries}) do
    for _, slot in ipairs(slots) do
      local n = #packed
      packed[n + 1], packed[n + 2], packed[n + 3] = slot[1], slot[2], slot[3]
    end
  end
  local until_ms = max(NOW, b.open_until, b.canary_until) + KEEP_BREAKER
  call('SET', PREFIX .. name_at(place), cmsgpack.pack(packed), 'PXAT', until_ms)
end

local function sums(slots, size, span)
  local oldest, first, second = floor(NOW / size) - span, 0, 0
  for _, slot in ipairs(slots) do
    if slot[1] >= oldest then first, second = first + slot[2], second + slot[3] end
  end
  return first, second
end

local function add_slot(slots, size, span, first, second)
  local now, kept, mine = floor(NOW / size), {}, nil
  for _, slot in ipairs(slots) do
    if slot[1] >= now - span then kept[#kept + 1] = slot end
    if slot[1] == now then mine = slot end
  end
  if not mine then
    mine = {now, 0, 0}
    kept[#kept + 1] = mine
  end
  mine[2], mine[3] = mine[2] + first, mine[3] + second
  return kept
end

local function blocks(b)
  return b.open_until > NOW or (b.open_until > 0 and b.canary_until > NOW)
end

local function opens(b, failures, ratio, cooldown)
  local ended, failed = sums(b.endings, ENDING_SLOT, ENDING_SLOTS)
  if b.open_until > 0 or failed < failures or failed * PPM < ratio * ended then return false end
  b.cooldown, b.open_until, b.changed = cooldown, NOW + cooldown, true
  return true
end

local function spares(b, ratio, least)
  local first, retries = sums(b.entries, ENTRY_SLOT, ENTRY_SLOTS)
  return (retries + 1) * PPM <= ratio * first + least * PPM
end

local function enter_breaker(b, id, is_retry, tries)
  b.entries = add_slot(b.entries, ENTRY_SLOT, ENTRY_SLOTS, 1 - is_retry, is_retry)
  b.changed = true
  if tries and b.open_until > 0 and not blocks(b) then b.canary, b.canary_until = id, NOW + b.cooldown end
end

local function leave_breaker(b, id, succeeded, cost)
  b.changed = true
  if id == b.canary then
    b.canary, b.canary_until = '', 0
    if succeeded then
      b.open_until, b.endings = 0, {}
    elseif cost then
      b.open_until = NOW + b.cooldown
    end
  end
  if succeeded or cost then
    b.endings = add_slot(b.endings, ENDING_SLOT, ENDING_SLOTS, 1, succeeded and 0 or 1)
  end
end

-- ---------------------------------------------------------------------- moves

-- Everything that speaks against a run, in the order in which it is told: {verdict, place} of each.
local function objections(a, known, b, trips, counters)
  local found, paid, lost, running = {}, tell_runs(known)
  local function object(verdict, place) found[#found + 1] = {verdict, place} end
  for i = 1, IN[trips] do
    if singles[IN[trips + i]] then
      object(IS_TRIPPED, i)
      break
    end
  end
  if known.done then object(IS_DONE, 1) end
  if running > 0 then object(IS_RUNNING, 1) end
  if IN[a + 4] >= 0 and paid >= IN[a + 4] then object(MUCH_PAID, 1) end
  if IN[a + 5] >= 0 and lost > IN[a + 5] then object(MUCH_LOST, 1) end
  local place = over(counters)
  if place then object(TALLIED, place) end
  if IN[a + 6] >= 0 and blocks(b) then object(BREAKS, 1) end
  if IN[a + 9] >= 0 and IN[a + 11] == 1 and not spares(b, IN[a + 9], IN[a + 10]) then object(OVER_RETRIES, 1) end
  return found
end

local function say_entered(verdict, place, known, opened, counters, warned)
  local paid, lost, running = tell_runs(known)
  for _, value in ipairs({6, verdict, place - 1, paid, known.started, lost, running, opened and 1 or 0}) do say(value) end
  if verdict == GO then say_counts(counters) end
  say(#warned)
  for _, value in ipairs(warned) do say(value) end
end

-- Enter: key, run id, name, lease_ms, max_paid, max_lost, failures, ratio, cooldown, retry ratio, floor, is_retry,
-- verdicts that only warn (one flag each but for `go`), trips (how many, names), tallies (how many, tallies).
-- A limit of -1 is none.
local function enter(a)
  local known, id, b, trips = runs_of(IN[a]), IN[a + 1], breaker_of(IN[a + 2]), a + 20
  local counters = trips + 1 + IN[trips]
  if place_of(known, id) then return say_entered(GO, 1, known, false, counters, {}) end
  local opened = IN[a + 6] >= 0 and opens(b, IN[a + 6], IN[a + 7], IN[a + 8])
  local warned = {}
  for _, objection in ipairs(objections(a, known, b, trips, counters)) do
    local verdict, place = objection[1], objection[2]
    if IN[a + 10 + verdict] == 0 then return say_entered(verdict, place, known, opened, counters, warned) end
    warned[#warned + 1] = verdict
  end
  begin_run(known, id, NOW + IN[a + 3])
  count(counters)
  enter_breaker(b, id, IN[a + 11], IN[a + 6] >= 0)
  say_entered(GO, 1, known, opened, counters, warned)
end

-- Leave: key, run id, name, succeeded, paid, done
local function leave(a)
  local known, id, succeeded = runs_of(IN[a]), IN[a + 1], IN[a + 3] == 1
  if knows_end(known, id) then return done(0) end
  local at = place_of(known, id)
  local cost = IN[a + 4] == 1
  if at then
    cost = cost or known[at].paid == 1
    table.remove(known, at)
  else
    known.started = known.started + 1
  end
  if cost and not succeeded then known.vain = known.vain + 1 end
  if #known.left == LEFT then table.remove(known.left, 1) end
  known.left[#known.left + 1] = id
  if IN[a + 5] == 1 then
    known.done, known.left = true, {}
    for i = #known, 1, -1 do known[i] = nil end
    if succeeded then known.vain, known.forgotten = 0, 0 end
  end
  known.changed = true
  leave_breaker(breaker_of(IN[a + 2]), id, succeeded, cost)
  done(1)
end

-- Trip: name, until
local function trip(a)
  local place, ends = IN[a], IN[a + 1]
  if singles[place] then return done(0) end
  singles[place] = ends == 0 or ends > NOW
  if ends == 0 then
    call('SET', PREFIX .. name_at(place), '1')
  elseif ends > NOW then
    call('SET', PREFIX .. name_at(place), '1', 'PXAT', ends)
  end
  done(1)
end

-- A name in a batch that is a trip, a key, a breaker and a scope alike: name, then the places of the first three.

-- Untrip: name, places
local function untrip(a)
  for i = a + 1, a + 3 do singles[IN[i]], tasks[IN[i]], breakers[IN[i]] = false, nil, nil end
  call('DEL', scope_key(IN[a]), PREFIX .. name_at(IN[a + 2]), PREFIX .. name_at(IN[a + 3]))
  done(call('DEL', PREFIX .. name_at(IN[a + 1])))
end

-- Peek: names (how many, names with their places)
local function peek(a)
  say(7)
  for i = a + 1, a + 4 * IN[a], 4 do
    local trip_key, known, b = PREFIX .. name_at(IN[i + 1]), runs_of(IN[i + 2]), breaker_of(IN[i + 3])
    say(singles[IN[i + 1]] and max(0, call('PEXPIRETIME', trip_key)) or -1)
    local counts = call('HGETALL', scope_key(IN[i]))
    say(#counts / 2)
    for _, value in ipairs(counts) do say(value) end
    local paid, lost, running = tell_runs(known)
    local ended, failed = sums(b.endings, ENDING_SLOT, ENDING_SLOTS)
    for _, value in ipairs({paid, known.started, lost, running, known.done and 1 or 0, b.open_until, ended, failed}) do
      say(value)
    end
  end
end
