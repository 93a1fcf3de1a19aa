-- Arguments: fingerprint. Returns: its place and session, or '' if it is nowhere.
local at = call('HGET', 'peer:p:' .. ARGV[1], 'at')
if at and is_alive(place_of(at)) then
  return { 'found', at }
end
return { 'found', '' }
