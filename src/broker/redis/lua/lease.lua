-- What the scripts of the lease share.

local function bury_lapsed()
  for _, place in ipairs(call('ZRANGEBYSCORE', 'peer:leases', '-inf', '(' .. string.format('%.0f', now))) do
    bury(place)
  end
end
