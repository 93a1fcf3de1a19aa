-- Gives a lease back. Arguments: place.
if is_listed(ARGV[1]) then
  bury(ARGV[1])
  call('UNLINK', 'peer:in:' .. ARGV[1])
end
return { 'done' }
