-- Rates by GCRA: STRING g:<name> "<used> <at>", in calls x period_ms (see core/gcra.py).
-- A rate in a batch is: name, limit, period, cost.

-- The meter whose place stands at `r`.
local function meter(r)
  local place = IN[r]
  local m = meters[place]
  if not m then
    local used, at = (singles[place] or '0 0'):match('^(%d+) (%d+)$')
    m = {used = used + 0, at = at + 0}
    meters[place] = m
  end
  return m
end

local function used(m, limit)
  return max(0, m.used - max(0, NOW - m.at) * limit)
end

-- nil when the call fits now, else the milliseconds until it would; 0 when it never will.
local function wait_ms(m, limit, period, cost)
  local over = used(m, limit) + (cost - limit) * period
  if over <= 0 then return nil end
  return cost <= limit and ceil(over / limit) or 0
end

-- Add the costs of the rates that stand at `a`, or take them out again (`sign` -1).
local function fill(a, sign)
  for r = a + 1, a + 4 * IN[a], 4 do
    local m, limit = meter(r), IN[r + 1]
    m.used = max(0, used(m, limit) + sign * IN[r + 3] * IN[r + 2])
    m.at = m.used > 0 and max(NOW, m.at) or 0
    m.limit = limit
  end
end

-- Per rate: whole calls left, milliseconds until it is empty again.
local function say_rates(a)
  for r = a + 1, a + 4 * IN[a], 4 do
    local limit, period = IN[r + 1], IN[r + 2]
    local level = used(meter(r), limit)
    say(floor((limit * period - level) / period))
    say(ceil(level / limit))
  end
end

local function write_meter(place, m)
  if not m.limit then return end
  local key = PREFIX .. IN[IN[1] + place + 2]
  if m.used == 0 then
    call('DEL', key)
  else
    call('SET', key, digits(m.used) .. ' ' .. digits(m.at), 'PXAT', m.at + ceil(m.used / m.limit))
  end
end
