-- wrk: POST the edit in BODY with the token in TOKEN; the last line of the output is JSON.
wrk.method = "POST"
wrk.body = os.getenv("BODY")
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer " .. os.getenv("TOKEN")

done = function(summary, latency)
    local failed = summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.write
    io.write(string.format('{"requests": %d, "seconds": %.3f, "failed": %d, "p50_ms": %.2f, "p95_ms": %.2f}\n',
        summary.requests, summary.duration / 1e6, failed, latency:percentile(50) / 1e3, latency:percentile(95) / 1e3))
end
