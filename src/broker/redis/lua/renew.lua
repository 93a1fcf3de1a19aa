-- Renews the lease, and marks dead those whose lease has run out. Arguments: place, milliseconds of a lease,
-- and of the longest standstill that ends none.
-- Returns: 'done', the nodes that are left, their peers.
local place = ARGV[1]
forgive_standstill(tonumber(ARGV[2]), tonumber(ARGV[3]))
if not is_alive(place) then
  return lapsed()
end
call('ZADD', 'peer:leases', now + tonumber(ARGV[2]), place)
leases[place] = nil
bury_lapsed()
local places = call('ZRANGE', 'peer:leases', 0, -1)
local peers = 0
for _, other in ipairs(places) do
  peers = peers + call('SCARD', 'peer:n:' .. other)
end
return { 'done', #places, peers }
