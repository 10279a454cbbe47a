-- Counters that expire: HASH c:<scope>, a count per name; all of a scope expire together (see core/tallies.py).
-- A tally in a batch is: scope, name, limit, keep_ms, add. They are counted at once, not at the end of the batch.

local function scope_key(scope)
  local key = PREFIX .. 'c:' .. scope
  if TESTED then expired(key) end
  return key
end

-- The place of the first of the tallies that stand at `a` whose limit would be passed, or nil.
local function over(a)
  for t = a + 1, a + 5 * IN[a], 5 do
    local limit = IN[t + 2]
    if limit > 0 and (call('HGET', scope_key(IN[t]), IN[t + 1]) or 0) + IN[t + 4] > limit then return (t - a + 4) / 5 end
  end
end

local function count(a)
  for t = a + 1, a + 5 * IN[a], 5 do
    local key = scope_key(IN[t])
    call('HINCRBY', key, IN[t + 1], IN[t + 4])
    call('PEXPIREAT', key, NOW + IN[t + 3], 'NX')
  end
end

local function take_back(a)
  for t = a + 1, a + 5 * IN[a], 5 do
    local key = scope_key(IN[t])
    local old = call('HGET', key, IN[t + 1])
    if old then call('HINCRBY', key, IN[t + 1], 0 - min(old + 0, IN[t + 4])) end  -- never -0: no integer to Redis
  end
end

local function say_counts(a)
  for t = a + 1, a + 5 * IN[a], 5 do
    say((call('HGET', scope_key(IN[t]), IN[t + 1]) or 0) + 0)
  end
end
