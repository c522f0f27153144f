import time
def test_one(whole):
  t=time.time(); r=whole(); print(time.time()-t, r.found)
def test_two(train, tmp_path):
  t=time.time(); r=train(tmp_path); print(time.time()-t, r.losses)
