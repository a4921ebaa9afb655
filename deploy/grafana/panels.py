# SPDX-License-Identifier: Apache-2.0
"""What the dashboard shows. Recordings are those of ``deploy/prometheus/recordings.py``."""

from __future__ import annotations

from deploy.grafana.queries import OF_JOB, OF_MODEL, OF_SERVER, Panel, Query, Row, mean, quantiles, rate

TRAFFIC = Row(
    "Traffic",
    (
        Panel(
            "Requests by model",
            "Ended RPCs of all statuses. Requests that name no served model count under unknown.",
            "reqps",
            (Query(rate(f'attnserve_requests_total{{{OF_SERVER}, model=~"$model|unknown"}}', "model"), "{{model}}"),),
            is_stacked=True,
        ),
        Panel(
            "Requests by task",
            "Ended RPCs by method; each task has its own.",
            "reqps",
            (Query(rate(f"attnserve_requests_total{{{OF_MODEL}}}", "method"), "{{method}}"),),
            is_stacked=True,
        ),
        Panel(
            "Tokens",
            "Source tokens, and tokens of the best hypotheses, of answered requests.",
            "short",
            (
                Query(rate(f"attnserve_source_tokens_total{{{OF_MODEL}}}", "model"), "{{model}} source"),
                Query(rate(f"attnserve_generated_tokens_total{{{OF_MODEL}}}", "model"), "{{model}} generated"),
            ),
        ),
        Panel(
            "Cache",
            "Requests by result of the answer cache; no curves while it is off.",
            "reqps",
            (Query(rate(f"attnserve_cache_requests_total{{{OF_MODEL}}}", "result"), "{{result}}"),),
            is_stacked=True,
        ),
    ),
)

ERRORS = Row(
    "Errors",
    (
        Panel(
            "Statuses other than OK",
            "Ended RPCs that were not answered, by status.",
            "reqps",
            (
                Query(
                    rate(f'attnserve_requests_total{{{OF_SERVER}, model=~"$model|unknown", code!="OK"}}', "model, code"),
                    "{{model}} {{code}}",
                ),
            ),
            is_stacked=True,
        ),
        Panel(
            "Shares of requests",
            "Faults of the server (INTERNAL, UNAVAILABLE, UNKNOWN), refusals for overload, missed deadlines; over five minutes.",
            "percentunit",
            (
                Query(f"attnserve:request_faults:ratio_rate5m{{{OF_JOB}}}", "{{model}} faults"),
                Query(f"attnserve:requests_exhausted:ratio_rate5m{{{OF_JOB}}}", "{{model}} exhausted"),
                Query(f"attnserve:requests_late:ratio_rate5m{{{OF_JOB}}}", "{{model}} late"),
            ),
        ),
        Panel(
            "Refused and cancelled",
            "Requests that were refused before they were queued, and those that were cancelled, by reason.",
            "reqps",
            (
                Query(
                    rate(f'attnserve_requests_rejected_total{{{OF_SERVER}, model=~"$model|unknown"}}', "reason"),
                    "refused: {{reason}}",
                ),
                Query(
                    rate(f'attnserve_requests_cancelled_total{{{OF_SERVER}, model=~"$model|unknown"}}', "reason"),
                    "cancelled: {{reason}}",
                ),
            ),
        ),
    ),
)

LATENCY = Row(
    "Latency by phase",
    (
        Panel("Whole request", "From arrival to status, with any status.", "s", quantiles("attnserve_request_duration_seconds")),
        Panel(
            "Image preparation",
            "Wait for a decoder thread, decoding and scaling.",
            "s",
            quantiles("attnserve_image_preparation_duration_seconds"),
        ),
        Panel("Queue", "Wait of answered requests for slots.", "s", quantiles("attnserve_queue_duration_seconds")),
        Panel("Encode", "Encoder run of answered requests.", "s", quantiles("attnserve_encode_duration_seconds")),
        Panel("Time to first token", "From the queue to the first token.", "s", quantiles("attnserve_time_to_first_token_seconds")),
        Panel(
            "Window", "Wait of requests for batch mates, single-pass models.", "s", quantiles("attnserve_window_duration_seconds")
        ),
        Panel("Run", "One run of a batch, single-pass models.", "s", quantiles("attnserve_run_duration_seconds")),
        Panel("Decode", "All decode steps of answered requests.", "s", quantiles("attnserve_decode_duration_seconds")),
        Panel("Decode step", "One step of a batch.", "s", quantiles("attnserve_decode_step_duration_seconds")),
        Panel("Between tokens", "Between two deliveries of a stream.", "s", quantiles("attnserve_inter_token_latency_seconds")),
        Panel(
            "Refusals",
            "Time to refuse a request, by reason.",
            "s",
            quantiles("attnserve_refusal_duration_seconds", f'{OF_SERVER}, model=~"$model|unknown"', "reason", "{{reason}}"),
        ),
    ),
)

BATCHES = Row(
    "Batches",
    (
        Panel(
            "Rows per step",
            "Mean number of rows (hypotheses) of a decode step.",
            "short",
            (Query(mean("attnserve_batch_rows"), "{{model}}"),),
        ),
        Panel("Batch sizes", "Rows of a decode step: median and 99th percentile.", "short", quantiles("attnserve_batch_rows")),
        Panel("Requests per run", "Requests that one run answers, single-pass models.", "short", quantiles("attnserve_batch_size")),
        Panel(
            "Slots in use",
            "Share of the slots of all workers that hold a row.",
            "percentunit",
            (
                Query(
                    f'sum by (model) (attnserve_slots{{{OF_MODEL}, state="used"}})'
                    f" / sum by (model) (attnserve_slots{{{OF_MODEL}}})",
                    "{{model}}",
                ),
            ),
        ),
        Panel(
            "Busy engines",
            "Share of time that workers spend in steps.",
            "percentunit",
            (Query(f"avg by (model) (attnserve_engine_busy_ratio{{{OF_MODEL}}})", "{{model}}"),),
        ),
        Panel(
            "Workers' time",
            "Workers that each model keeps busy, mean over the rate's interval.",
            "none",
            (Query(rate(f"attnserve_engine_busy_seconds_total{{{OF_MODEL}}}", "model"), "{{model}}"),),
        ),
        Panel(
            "Steps",
            "Decode steps, and those whose shape was not warmed up.",
            "ops",
            (
                Query(rate(f"attnserve_decode_step_duration_seconds_count{{{OF_MODEL}}}", "model"), "{{model}}"),
                Query(rate(f"attnserve_cold_shapes_total{{{OF_MODEL}}}", "model"), "{{model}} cold"),
            ),
        ),
    ),
)

QUEUE = Row(
    "Queue",
    (
        Panel(
            "Waiting requests",
            "In the front and in workers.",
            "short",
            (Query(f"sum by (model) (attnserve_queue_length{{{OF_MODEL}}})", "{{model}}"),),
        ),
        Panel(
            "Age of the oldest waiting request",
            "The autoscaler follows it.",
            "s",
            (Query(f"max by (model) (attnserve_queue_seconds{{{OF_MODEL}}})", "{{model}}"),),
        ),
        Panel(
            "Unread answers",
            "Answers that clients have not read yet.",
            "bytes",
            (Query(f"sum by (instance) (attnserve_unread_answers_bytes{{{OF_SERVER}}})", "{{instance}}"),),
        ),
    ),
)

WORKERS = Row(
    "Workers and models",
    (
        Panel(
            "Models ready",
            "Number of servers that have a model.",
            "short",
            (Query(f"sum by (model, version) (attnserve_model_ready{{{OF_MODEL}}})", "{{model}}/{{version}}"),),
            is_number=True,
        ),
        Panel(
            "Workers",
            "Workers that live, and that should.",
            "short",
            (Query(f"sum by (state) (attnserve_workers{{{OF_SERVER}}})", "{{state}}"),),
        ),
        Panel(
            "Deaths of workers",
            "Workers that died or were killed within an hour.",
            "short",
            (Query(f"sum by (instance) (increase(attnserve_worker_deaths_total{{{OF_SERVER}}}[1h]))", "{{instance}}"),),
        ),
        Panel(
            "Silence of workers",
            "Time for which a worker with work has sent nothing.",
            "s",
            (Query(f"max by (instance, worker) (attnserve_worker_silence_seconds{{{OF_SERVER}}})", "{{instance}} {{worker}}"),),
        ),
        Panel(
            "Loading a model",
            "Mean time to load and warm up a model in one worker, since the start.",
            "s",
            (
                Query(
                    f"sum by (model) (attnserve_model_load_duration_seconds_sum{{{OF_MODEL}}})"
                    f" / sum by (model) (attnserve_model_load_duration_seconds_count{{{OF_MODEL}}})",
                    "{{model}}",
                ),
            ),
            is_number=True,
        ),
    ),
)

RESOURCES = Row(
    "Resources",
    (
        Panel(
            "Resident memory",
            "Of each process; the limit is that of machine and control group.",
            "bytes",
            (
                Query(f"sum by (instance, process) (attnserve_process_resident_bytes{{{OF_SERVER}}})", "{{instance}} {{process}}"),
                Query(f"max by (instance) (attnserve_memory_limit_bytes{{{OF_SERVER}}})", "{{instance}} limit"),
            ),
        ),
        Panel(
            "Open descriptors",
            "Of each process, as a share of its limit.",
            "percentunit",
            (
                Query(
                    "max by (instance, process)"
                    f" (attnserve_process_open_fds{{{OF_SERVER}}} / attnserve_process_max_fds{{{OF_SERVER}}})",
                    "{{instance}} {{process}}",
                ),
            ),
        ),
        Panel(
            "Device memory",
            "In use on a GPU, by all processes; no curves without one.",
            "bytes",
            (
                Query(f"sum by (instance, device) (attnserve_device_memory_bytes{{{OF_SERVER}}})", "{{instance}} {{device}}"),
                Query(
                    f"sum by (instance, device) (attnserve_device_memory_limit_bytes{{{OF_SERVER}}})",
                    "{{instance}} {{device}} limit",
                ),
            ),
        ),
        Panel(
            "Certificates",
            "Time until a certificate expires; no curves without TLS.",
            "s",
            (
                Query(
                    f"min by (instance, certificate) (attnserve_certificate_expiry_timestamp_seconds{{{OF_SERVER}}}) - time()",
                    "{{instance}} {{certificate}}",
                ),
            ),
            is_number=True,
        ),
        Panel(
            "Log lines dropped",
            "Lines that the log's output did not take in time.",
            "cps",
            (Query(rate(f"attnserve_log_lines_dropped_total{{{OF_SERVER}}}", "instance"), "{{instance}}"),),
        ),
        Panel(
            "Versions",
            "Of server, ONNX Runtime and Python.",
            "short",
            (
                Query(
                    f"count by (version, onnxruntime, python) (attnserve_build_info{{{OF_SERVER}}})",
                    "{{version}}, ONNX Runtime {{onnxruntime}}, Python {{python}}",
                ),
            ),
            is_number=True,
        ),
    ),
)

ROWS = (TRAFFIC, ERRORS, LATENCY, BATCHES, QUEUE, WORKERS, RESOURCES)
