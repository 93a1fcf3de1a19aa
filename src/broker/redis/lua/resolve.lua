-- Arguments: alias. Returns: who holds it, or ''.
local holder = call('GET', 'peer:a:' .. ARGV[1])
if holder and is_listed(place_of(call('HGET', 'peer:p:' .. holder, 'at'))) then
  return { 'resolved', holder }
end
return { 'resolved', '' }
