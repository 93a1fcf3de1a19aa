-- What the scripts of the lease share.

-- Marks a place dead: all nodes that are left are told, and its entries wait to be swept.
local function bury(place)
  call('ZREM', 'peer:leases', place)
  leases[place] = false
  call('SADD', 'peer:dead', place)
  call('UNLINK', 'peer:in:' .. place)
  local others = {}
  for _, other in ipairs(call('ZRANGE', 'peer:leases', 0, -1)) do
    others[other] = true
  end
  tell(others, 'e', 'gone', 'p', place)
end

local function bury_lapsed()
  for _, place in ipairs(call('ZRANGEBYSCORE', 'peer:leases', '-inf', '(' .. string.format('%.0f', now))) do
    bury(place)
  end
end
