from llmagentos.serve.metrics import Metrics


def test_two_replicas_in_one_process_do_not_share_figures():
    one, two = Metrics(), Metrics()
    one.requests.labels("/v1/feedback", "200").inc()
    line = b'llmagentos_requests_total{route="/v1/feedback",status="200"} 1.0'
    assert line in one.text()
    assert line not in two.text()
