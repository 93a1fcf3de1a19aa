-- Renews the lease, and marks dead those whose lease has run out. Arguments: place, milliseconds of a lease.
local place = ARGV[1]
if not is_alive(place) then
  return lapsed()
end
call('ZADD', 'peer:leases', now + tonumber(ARGV[2]), place)
leases[place] = nil
bury_lapsed()
return { 'done' }
