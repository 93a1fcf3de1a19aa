-- What the scripts of the lease share.

-- If no lease at all has been renewed in time, it was not a node that was lost: the server stood still, or nobody reached it.
-- Then all of them have another lease's length in which to come back, unless that is longer ago than `most` milliseconds.
local function forgive_standstill(length, most)
  if call('ZCOUNT', 'peer:leases', string.format('%.0f', now), '+inf') > 0 then
    return
  end
  local since = string.format('%.0f', now - most)
  for _, place in ipairs(call('ZRANGEBYSCORE', 'peer:leases', since, '+inf')) do
    call('ZADD', 'peer:leases', now + length, place)
    leases[place] = nil
  end
end

local function bury_lapsed()
  for _, place in ipairs(call('ZRANGEBYSCORE', 'peer:leases', '-inf', '(' .. string.format('%.0f', now))) do
    bury(place)
  end
end
