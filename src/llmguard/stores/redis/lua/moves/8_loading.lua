-- Moves that stand beside the lease table: the questions of reconcile, and the loading of a cold store.

-- Known: rids (how many, rids)
local function known(a)
  local gone = {}
  for i = a + 1, a + IN[a] do
    local tombstone = record(entries[IN[i]])
    if not tombstone or tombstone[1] ~= SETTLED then gone[#gone + 1] = i - a - 1 end
  end
  say_gone(gone, 0)
end

-- The fence: how many turns there were, until when the last one lasts, its length.
local function read_fence()
  local fence, turn_until, turn_ms = (FENCE or '0 0 0'):match('^(%d+) (%d+) (%d+)$')
  return fence + 0, turn_until + 0, turn_ms + 0
end

local function write_fence(fence, turn_until, turn_ms)
  FENCE = digits(fence) .. ' ' .. digits(turn_until) .. ' ' .. digits(turn_ms)
  call('SET', PREFIX .. 'fence', FENCE)
end

-- Begin: lease_ms, rebuild. The loader wipes what is left itself, piece by piece (wipe.lua).
local function begin(a)
  local fence, turn_until = read_fence()
  say(5)
  if NOW < turn_until or (OPENS_AT > 0 and IN[a + 1] == 0) then return say(0) end
  OPENS_AT = 0
  write_fence(fence + 1, NOW + IN[a], IN[a])
  say(fence + 1)
end

local function load_sum(amount, window_end, b, fence)
  if b.kind > 0 then
    local slot = min(slot_of(b.kind, window_end) - 1, b.slot)
    local part = 's' .. slot
    charge(b, slot, amount - (call('HGET', b.key, part) or 0) - (b.parts[part] or 0), 0)
  else
    call('HSET', b.key, 'settled', amount, 'held', digits(b.held), 'exposure', digits(b.exposure), 'orphan', digits(b.orphan))
    b.settled = tonumber(amount)
    b.large = b.large or b.settled >= LARGE
  end
  if fence > 0 then b.alerts, b.told = digits(b.settled) .. ' ', true end
end

-- Load: fence, sums (how many; name, amount as digits, window_end, kind),
-- counted (how many; rid, rev, how many amounts, amounts)
local function load_truth(a)
  local fence, sums, missing, changed = IN[a], a + 2, {}, 1
  local counted = sums + 4 * IN[a + 1]
  if fence > 0 then
    local last, _, turn_ms = read_fence()
    if OPENS_AT > 0 or fence ~= last then return again(GONE) end
    write_fence(fence, NOW + turn_ms, turn_ms)
  else
    if OPENS_AT == 0 then return again(COLD) end
    changed = 0
    for s = sums, counted - 1, 4 do
      if not bucket(IN[s], IN[s + 3]).exists then missing[IN[s]], changed = true, 1 end
    end
  end
  for s = sums, counted - 1, 4 do
    local b = bucket(IN[s], IN[s + 3])
    if (fence > 0 or missing[IN[s]]) and make(b, IN[s + 2]) then load_sum(IN[s + 1], IN[s + 2], b, fence) end
  end
  local c = counted + 1
  for _ = 1, fence > 0 and IN[counted] or 0 do
    local tombstone = {SETTLED, IN[c + 1]}
    for i = 1, IN[c + 2] do tombstone[i + 2] = IN[c + 2 + i] end
    keep(entries[IN[c]], tombstone, NOW + HORIZON)
    c = c + 3 + IN[c + 2]
  end
  done(changed)
end

-- Open: fence, grace_ms
local function open_epoch(a)
  local fence, _, turn_ms = read_fence()
  if IN[a] ~= fence then return again(GONE) end
  if OPENS_AT > 0 then return done(0) end
  OPENS_AT = NOW + IN[a + 1]
  SEQ = max(SEQ, NOW * 1000)  -- above anything seen from a store that was flushed
  write_fence(fence, 0, turn_ms)
  done(1)
end
