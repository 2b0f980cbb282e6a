-- Has wrk count which task answers, and print that as "sample load" does.
local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init()
  by = {}
end

function response(status, headers, body)
  local host = body:match("hostname=(%S+)") or "nobody"
  by[host] = (by[host] or 0) + 1
end

function done(summary)
  print("-- spread --")
  local answered = 0
  for _, thread in ipairs(threads) do
    for host, n in pairs(thread:get("by")) do
      print(host .. " " .. n)
      answered = answered + n
    end
  end
  local e = summary.errors
  print(string.format("answered=%d failed=%d", answered, e.connect + e.read + e.write + e.status + e.timeout))
end
