-- Every request to another of 10 000 hosts, in an order that caches do not like.
local requests, last = {}, 0
function init(args)
  for i = 0, 9999 do
    wrk.headers["Host"] = string.format("h%05d.example.com", i)
    requests[i] = wrk.format("GET", "/")
  end
end
function request()
  last = (last + 7919) % 10000
  return requests[last]
end
