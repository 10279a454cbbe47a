-- Rates by GCRA: STRING g:<name> "<used> <at>", in calls x period_ms (see core/gcra.py).

local meters = {}

local function meter(suffix)
  local m = meters[suffix]
  if not m then
    local used, at = pair(found[suffix])
    m = {used = used, at = at}
    meters[suffix] = m
  end
  return m
end

local function used(m, limit)
  return math.max(0, m.used - math.max(0, NOW - m.at) * limit)
end

-- nil when the call fits now, else the milliseconds until it would; 0 when it never will.
local function wait_ms(m, limit, period, cost)
  local over = used(m, limit) + (cost - limit) * period
  if over <= 0 then return nil end
  return cost <= limit and math.ceil(over / limit) or 0
end

local function fill(m, limit, period, cost)
  m.used = math.max(0, used(m, limit) + cost * period)
  m.at = m.used > 0 and math.max(NOW, m.at) or 0
  m.limit = limit
end

local function write_meter(suffix, m)
  if not m.limit then return end
  if m.used == 0 then
    call('DEL', PREFIX .. suffix)
  else
    local empty = m.at + math.ceil(m.used / m.limit)
    call('SET', PREFIX .. suffix, digits(m.used) .. ' ' .. digits(m.at), 'PXAT', digits(empty))
  end
end
